"""The place where a run departs from its reference, and the cause."""
