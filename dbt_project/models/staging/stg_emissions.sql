select * from {{ source('lake', 'emissions') }}
