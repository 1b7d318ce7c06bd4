select day, cost_usd, carbon_cost_usd, effective_cost_usd
from {{ ref('effective_cost') }}
where abs(cost_usd + carbon_cost_usd - effective_cost_usd) > 1e-9 * abs(effective_cost_usd)
