"""How a case becomes a run: executed, written as a folder, kept as a golden."""
