-- The founding design's table, its columns and no others.
select
    factor_id, factor_type, region, provider, value, value_lower, value_upper, unit, source, source_url, valid_from,
    valid_to, version, created_at
from {{ ref('stg_emission_factors') }}
order by factor_type, region, provider, factor_id
