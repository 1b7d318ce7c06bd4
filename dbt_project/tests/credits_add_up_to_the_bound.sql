select team_id, month, credited_kg, savings_ci90_lower_kg
from {{ ref('savings_by_team') }}
where abs(credited_kg - savings_ci90_lower_kg) > 1e-9 * greatest(1, abs(savings_kg))
