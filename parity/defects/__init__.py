"""The known defects, by the part of the model that they lie in."""
