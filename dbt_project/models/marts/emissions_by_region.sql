select
    cast(started_at as date) as day,
    cloud_provider, region,
    {{ emission_sums() }}
from {{ ref('stg_emissions') }}
group by day, cloud_provider, region
order by day, cloud_provider, region
