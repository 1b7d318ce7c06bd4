{{ config(meta={'dagster': {'ref': {'name': 'stg_emissions', 'package_name': 'sust'}}}) }}
-- Every mart of emissions is a partition of the same rows: its kilograms and dollars add up to theirs.
with whole as (
    select sum(kg_location) as kg, sum(cost_usd) as usd from {{ ref('stg_emissions') }}
),
parts as (
    {% for mart in ['jobs', 'emissions_by_region', 'emissions_by_team', 'emissions_by_service',
                    'emissions_by_hour_of_day', 'effective_cost'] %}
    select '{{ mart }}' as mart, sum(kg_location) as kg, sum(cost_usd) as usd from {{ ref(mart) }}
    {% if not loop.last %}union all{% endif %}
    {% endfor %}
)
select parts.* from parts, whole
where abs(parts.kg - whole.kg) > 1e-9 * abs(whole.kg) or abs(parts.usd - whole.usd) > 1e-9 * abs(whole.usd)
