"""Whatever executes a case: the official code, the native model, ports."""
