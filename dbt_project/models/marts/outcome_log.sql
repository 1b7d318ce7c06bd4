-- The founding design's table, its columns and no others; outcomes without a number are not in it.
select
    outcome_id, decision_id, recommendation_id, measured_carbon_delta_kg, counterfactual_carbon_kg, actual_carbon_kg,
    carbon_ci_lower, carbon_ci_upper, measured_cost_delta_usd, sla_compliant, sla_detail, verification_method,
    json_array(json_object(
        'source', 'evidence/' || evidence_chain || '.json',
        'query', 'sust evidence verify evidence/' || evidence_chain || '.json',
        'timestamp', strftime(verified_at, '%Y-%m-%dT%H:%M:%SZ'),
        'hash', evidence_chain
    )) as evidence_chain,
    verified_at, verification_status
from {{ ref('stg_outcomes') }}
where measured_carbon_delta_kg is not null
order by outcome_id
