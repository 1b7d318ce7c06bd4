"""ACT: what is carried out, in which order, and what is done when a call fails. No outside system in here."""
