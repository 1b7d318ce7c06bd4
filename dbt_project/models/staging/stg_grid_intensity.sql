select * from {{ source('lake', 'grid_intensity') }}
