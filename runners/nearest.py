"""The known name that a mistyped one is nearest to, for the end of an error."""

from collections.abc import Iterable


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """` Did you mean 'NAME'?`, a sentence to append, or nothing if no known name is near."""
    from difflib import get_close_matches  # for who has mistyped alone

    near = get_close_matches(word[:100], list(known), n=1, cutoff=0.6)
    return f" Did you mean {near[0]!r}?" if near else ""
