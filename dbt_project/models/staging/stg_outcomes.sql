-- Each outcome with the time of the commit that holds it.
select
    outcomes.*,
    files.committed_at as verified_at
from {{ source('lake', 'outcomes') }} as outcomes
left join {{ source('lake', 'lake_files') }} as files
    on files.table_name = 'outcomes'
    and files.slot = strftime(outcomes.executed_on, '%Y-%m-%d')
