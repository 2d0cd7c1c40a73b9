"""How strong a verdict is: of the known defects, how many are caught by the levels of evidence it rests on.

`parity mutate --out` counts them and keeps the result under docs/measurements; a verdict reached on fewer levels than
there are says by how much weaker that is. Nothing is judged by these counts.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Final

import msgspec

from parity.diff.levels import LEVEL_WORDS
from runners.errors import RegistryError
from runners.load import load

KIND: Final = "mutation"


class Strength(msgspec.Struct, frozen=True, kw_only=True):
    """Counts of one mutation score. Other keys of the file are for people."""

    kind: str
    limits_of: str  # case whose limits judged
    date: str
    defects: int
    killed: int
    killed_by_levels: dict[str, int]  # `key` of the levels that judged -> defects caught by these together

    def caught_by(self, levels: Sequence[str]) -> str | None:
        """In words, how many known defects these levels catch together; None if that was not counted."""
        count = self.killed_by_levels.get(key(levels))
        if count is None:
            return None
        alone = " alone" if len(levels) == 1 else ""
        return f"{said(levels)}{alone} catch {count} of {self.defects} known defects ({self.limits_of}, {self.date})"


def key(levels: Sequence[str]) -> str:
    """The name of a set of levels in the file."""
    return "+".join(levels)


def said(levels: Sequence[str]) -> str:
    """Levels in words: "outputs, drift of taps and isolated errors"."""
    words = [LEVEL_WORDS[level] for level in levels]
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def load_strength(path: Path) -> Strength | None:
    """Read the counts; None where nobody has saved any. Raises: RegistryError for a file that is no mutation score."""
    if not path.is_file():
        return None
    found = load(path, Strength, RegistryError, "a mutation score comes from `parity mutate --out FILE`")
    if found.kind != KIND:
        raise RegistryError(f"{path} is a file of kind {found.kind!r}, not {KIND!r}; run `parity mutate --out {path}`.")
    return found
