"""Many rows, done on many machines: what is asked for, by whom it is done, what has come back."""
