"""Patterns of taps: shell patterns of tap names, one or several divided by blanks."""

import re
from collections.abc import Iterable
from fnmatch import translate
from functools import lru_cache
from typing import Final

from runners.errors import CaseError

MAX_LENGTH: Final = 4096  # the longest that this program writes has 1700


def chosen(tap: str, pattern: str | None) -> bool:
    """True if a pattern chooses a tap: `*` also matches `/`, and None chooses every tap."""
    return pattern is None or pattern == "*" or _compiled(pattern).match(tap) is not None


@lru_cache(maxsize=64)
def _compiled(pattern: str) -> re.Pattern[str]:
    """All of them as one expression: a golden's pattern has twenty, asked of 55,092 taps. None at all chooses none.

    Raises: CaseError for a pattern longer than any that chooses taps.
    """
    if len(pattern) > MAX_LENGTH:
        raise CaseError(f"A pattern of taps has {len(pattern)} characters; at most {MAX_LENGTH} are read. Shorten it.")
    return re.compile("|".join(translate(one) for one in pattern.split()) or r"(?!)")


def includes(wider: str | None, narrower: str) -> bool:
    """True if one pattern surely chooses everything that another does: each part of that, read as a name, is chosen.

    Parts may hold `*` and no other wildcard. It then stands where the wider one has `*`, too; parts of the wider one
    with `?` or `[` do not count, since these would take it for a single character.
    """
    sure = None if wider is None else " ".join(part for part in wider.split() if not set("?[") & set(part))
    return all(chosen(part, sure) for part in narrower.split())


def require_choice(taps: Iterable[str], pattern: str) -> None:
    """Raise CaseError for a pattern that chooses none of a case's taps: nothing would be recorded, and so compared."""
    if not any(chosen(tap, pattern) for tap in taps):
        raise CaseError(
            f"--taps {pattern!r} matches no tap of this case. Names are like connector/pos/video or "
            "denoise/000/cond/block/00/video/ff, and * also matches /; '*' takes all."
        )
