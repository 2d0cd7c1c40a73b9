"""The command line: one verb a file."""

# Exit code of whatever is no verdict. It stands here since nothing that is imported later may fail before it.
COULD_NOT_JUDGE = 2
