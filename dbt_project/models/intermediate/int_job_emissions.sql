-- One row per job: where and when it ran, what it cost and emitted.
select
    job_id,
    any_value(workload_id)          as workload_id,
    any_value(team_id)              as team_id,
    any_value(service_name)         as service_name,
    any_value(cloud_provider)       as cloud_provider,
    any_value(workload_category)    as workload_category,
    arg_min(region, started_at)     as region,
    count(distinct region)          as regions,
    min(started_at)                 as started_at,
    max(ended_at)                   as ended_at,
    sum(vcpu_hours)                 as vcpu_hours,
    {{ emission_sums() }}
from {{ ref('stg_emissions') }}
group by job_id
