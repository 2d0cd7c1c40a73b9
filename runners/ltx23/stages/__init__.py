"""The stages a request flows through, in order, each a class with a `forward` that fills in fields of a `Batch`."""
