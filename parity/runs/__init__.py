"""The way from a case to a run: executed, written as a folder, kept as a golden."""
