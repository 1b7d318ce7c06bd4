select team_id, month, credited_kg, credit_bound_kg
from {{ ref('savings_by_team') }}
where abs(credited_kg - credit_bound_kg) > 1e-9 * greatest(1, abs(savings_kg))
