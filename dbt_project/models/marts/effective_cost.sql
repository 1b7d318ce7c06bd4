-- Effective cost = bill + tCO2e x price, by day. The price is a policy, shown beside the figure it makes.
select
    cast(started_at as date) as day,
    {{ carbon_price_usd_per_t() }} as carbon_price_usd_per_t,
    {{ emission_sums() }},
    sum(coalesce(kg_location, 0)) / 1000 * {{ carbon_price_usd_per_t() }} as carbon_cost_usd,
    sum(coalesce(kg_location_lower, 0)) / 1000 * {{ carbon_price_usd_per_t() }} as carbon_cost_usd_lower,
    sum(coalesce(kg_location_upper, 0)) / 1000 * {{ carbon_price_usd_per_t() }} as carbon_cost_usd_upper
from {{ ref('stg_emissions') }}
group by day
order by day
