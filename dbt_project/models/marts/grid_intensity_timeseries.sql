-- The founding design's table: the average signal that the inventory uses, one row per hour and region.
select ts, region, intensity_kgco2_kwh, intensity_lower, intensity_upper, source
from {{ ref('stg_grid_intensity') }}
where signal = 'average'
order by ts, region
