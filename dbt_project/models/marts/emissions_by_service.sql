select
    cast(started_at as date) as day,
    service_name,
    {{ emission_sums() }}
from {{ ref('stg_emissions') }}
group by day, service_name
order by day, service_name
