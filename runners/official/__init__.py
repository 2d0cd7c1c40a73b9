"""The official code as it is, observed from outside."""
