-- What a team saved in a month, with its interval. An error that outcomes share is added up, signed, before the square:
-- more outcomes do not shrink it. Credit is each outcome's share of the credit bound, so the credits add up to it: the
-- lower end of the interval, for a loss the lower of that and the bound of a log-normal loss (docs/methodology.md, 6).
with vectors as (
    select team_id, month, factor_key, sum(scaled_kg) as scaled_kg
    from {{ ref('stg_sensitivities') }}
    group by team_id, month, factor_key
),

spreads as (
    select team_id, month, sqrt(sum(scaled_kg * scaled_kg)) as sd_kg
    from vectors
    group by team_id, month
),

totals as (
    select
        team_id,
        month,
        count(*) as outcomes,
        count(*) filter (verification_status = 'disqualified') as disqualified,
        -sum(claimed_delta_kg) filter (measured_carbon_delta_kg is not null) as claimed_kg,
        coalesce(-sum(measured_carbon_delta_kg), 0) as savings_kg,
        coalesce(sum(credited_kg), 0) as credited_kg,
        sum(measured_cost_delta_usd) filter (measured_carbon_delta_kg is not null) as cost_delta_usd
    from {{ ref('stg_outcomes') }}
    group by team_id, month
),

footprints as (
    select
        team_id,
        date_trunc('month', started_at) as month,
        sum(coalesce(kg_location, 0)) as footprint_kg
    from {{ ref('stg_emissions') }}
    group by all
),

-- Rebound: what a team emits in all, beside what it claims to have avoided.
grown as (
    select
        team_id,
        month,
        footprint_kg,
        lag(footprint_kg) over (partition by team_id order by month) as previous_footprint_kg
    from footprints
)

select
    team_id,
    month,
    outcomes,
    disqualified,
    claimed_kg,
    savings_kg,
    coalesce(sd_kg, 0) as sd_kg,
    savings_kg - 1.6448536269514722 * coalesce(sd_kg, 0) as savings_ci90_lower_kg,
    savings_kg + 1.6448536269514722 * coalesce(sd_kg, 0) as savings_ci90_upper_kg,
    case
        when savings_kg < 0 then least(
            savings_kg - 1.6448536269514722 * coalesce(sd_kg, 0),
            savings_kg * exp(1.6448536269514722 * sqrt(ln(1 + (coalesce(sd_kg, 0) / savings_kg) ** 2)))
        )
        else savings_kg - 1.6448536269514722 * coalesce(sd_kg, 0)
    end as credit_bound_kg,
    credited_kg,
    cost_delta_usd,
    footprint_kg,
    previous_footprint_kg,
    footprint_kg / previous_footprint_kg - 1 as footprint_growth,
    coalesce(savings_kg > 0 and footprint_kg > 1.2 * previous_footprint_kg, false) as rebound
from totals
left join spreads using (team_id, month)
left join grown using (team_id, month)
order by team_id, month
