{{ config(meta={'dagster': {'ref': {'name': 'stg_emissions', 'package_name': 'sust'}}}) }}
-- No ledger row without an emissions row, and none accounted twice or from nowhere.
select coalesce(a.activity_id, e.activity_id) as activity_id, a.activity_id is null as from_nowhere
from {{ ref('stg_activity') }} as a
full outer join {{ ref('stg_emissions') }} as e using (activity_id)
where a.activity_id is null or e.activity_id is null
