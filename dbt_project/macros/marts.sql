{#- Where a mart's file is written. An environment variable and not the profile's `external_root`, which is part of what
    dbt compares before it takes the project as parsed. -#}
{% macro external_location(relation, config) -%}
    {{ env_var('SUST_MARTS_BUILD', 'target/marts') }}/{{ relation.identifier }}.{{ config.get('format', 'parquet') }}
{%- endmacro %}
