"""Small factor tables (CSV); every row carries source, year and licence."""
