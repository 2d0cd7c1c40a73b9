"""A matrix of cases, engines and devices: one row on its box, and the driver of all rows."""
