select * from {{ ref('int_job_emissions') }} order by started_at, job_id
