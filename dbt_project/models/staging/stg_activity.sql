-- The ledger, each row with the time of the commit that holds it.
select
    ledger.*,
    files.committed_at as ingested_at
from {{ source('lake', 'activity_ledger') }} as ledger
left join {{ source('lake', 'lake_files') }} as files
    on files.table_name = 'activity_ledger'
    and files.slot = strftime(ledger.started_at, '%Y-%m-%dT%H')
