"""Where a run departs from its reference, and why."""
