select
    cast(started_at as date) as day,
    team_id,
    {{ emission_sums() }}
from {{ ref('stg_emissions') }}
group by day, team_id
order by day, team_id
