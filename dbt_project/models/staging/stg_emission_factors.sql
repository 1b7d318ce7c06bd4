select * from {{ source('books', 'emission_factors') }}
