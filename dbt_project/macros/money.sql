{#- Internal carbon price, USD per tonne; an environment variable, because a dbt var would re-parse the project. -#}
{% macro carbon_price_usd_per_t() %}cast({{ env_var('SUST_CARBON_PRICE_USD_PER_T', '75') }} as double){% endmacro %}

{#- Sums that a mart of emissions shows: the three statements stay apart, bounds are summed as boxes. -#}
{% macro emission_sums() %}
    count(*)                                                as slices,
    count(*) filter (where kg_location is null)             as slices_not_estimated,
    sum(energy_kwh)                                         as energy_kwh,
    sum(facility_kwh)                                       as facility_kwh,
    sum(kg_location)                                        as kg_location,
    sum(kg_location_lower)                                  as kg_location_lower,
    sum(kg_location_upper)                                  as kg_location_upper,
    sum(kg_market)                                          as kg_market,
    sum(kg_embodied)                                        as kg_embodied,
    sum(cost_usd)                                           as cost_usd,
    sum(cost_usd) + sum(coalesce(kg_location, 0)) / 1000 * {{ carbon_price_usd_per_t() }} as effective_cost_usd
{% endmacro %}
