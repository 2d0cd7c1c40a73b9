"""Which taps are meant: shell patterns of tap names, one or several divided by blanks."""

from fnmatch import fnmatchcase


def chosen(tap: str, pattern: str | None) -> bool:
    """Whether a pattern chooses a tap: `*` also matches `/`, and None chooses every tap."""
    return pattern is None or any(fnmatchcase(tap, one) for one in pattern.split())
