-- One row per outcome and named factor: by how much its saving moves with it, times the spread of the factor.
select
    outcome_id,
    team_id,
    month,
    unnest(json_keys(scaled_sensitivities)) as factor_key,
    unnest(list_transform(
        json_keys(scaled_sensitivities),
        lambda k: cast(json_extract(scaled_sensitivities, '$."' || k || '"') as double)
    )) as scaled_kg
from {{ ref('stg_outcomes') }}
where measured_carbon_delta_kg is not null
