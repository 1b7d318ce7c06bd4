select activity_id, kg_location_lower, kg_location, kg_location_upper
from {{ ref('stg_emissions') }}
where kg_location is not null and not (kg_location_lower <= kg_location and kg_location <= kg_location_upper)
