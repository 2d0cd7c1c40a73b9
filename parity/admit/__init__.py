"""Admission: operations of a candidate held to the official ones in float64, and the drift of the run beside them."""
