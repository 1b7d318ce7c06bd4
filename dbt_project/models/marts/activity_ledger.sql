-- The founding design's table, its columns and no others.
select
    activity_id, job_id, service_name, team_id, cloud_provider, region, instance_type, resource_type, resource_qty,
    resource_unit, cost_usd, workload_category, started_at, ended_at, ingested_at, source, raw_record_ref
from {{ ref('stg_activity') }}
order by started_at, activity_id
