-- Mean day: each UTC hour of day, with the mean intensity that its energy met.
select
    cast(extract(hour from started_at) as integer) as hour_of_day,
    count(distinct cast(started_at as date)) as days,
    sum(facility_kwh * intensity_kgco2_kwh) / nullif(sum(facility_kwh), 0) as mean_intensity_kgco2_kwh,
    {{ emission_sums() }}
from {{ ref('stg_emissions') }}
group by hour_of_day
order by hour_of_day
