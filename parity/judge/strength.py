"""The strength of a verdict: of the known defects, the number that the levels of evidence it rests on catch.

`parity mutate --out` counts them and keeps the result under docs/measurements; a verdict reached on fewer levels than
there are says by how much weaker that is. Nothing is judged by these counts.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec

from runners.errors import RegistryError
from runners.load import load

KIND: Final = "mutation"


@dataclass(frozen=True, kw_only=True)
class Caught:
    """Number of the known defects that the levels that judged catch together."""

    levels: tuple[str, ...]
    count: int
    defects: int
    limits_of: str  # case whose limits were tried
    date: str


class Strength(msgspec.Struct, frozen=True, kw_only=True):
    """Counts of one mutation score. Other keys of the file are for people."""

    kind: str
    limits_of: str  # case whose limits judged
    date: str
    defects: int
    killed: int
    killed_by_levels: dict[str, int]  # `key` of the levels that judged -> defects caught by these together

    def caught_by(self, levels: Sequence[str]) -> Caught | None:
        """Number of known defects that these levels catch together; None if that was not counted."""
        count = self.killed_by_levels.get(key(levels))
        if count is None:
            return None
        return Caught(levels=tuple(levels), count=count, defects=self.defects, limits_of=self.limits_of, date=self.date)


def key(levels: Sequence[str]) -> str:
    """The name of a set of levels in the file."""
    return "+".join(levels)


def load_strength(path: Path) -> Strength | None:
    """Read the counts; None where nobody has saved any. Raises: RegistryError for a file that is no mutation score."""
    if not path.is_file():
        return None
    found = load(path, Strength, RegistryError, "a mutation score comes from `parity mutate --out FILE`")
    if found.kind != KIND:
        raise RegistryError(f"{path} is a file of kind {found.kind!r}, not {KIND!r}; run `parity mutate --out {path}`.")
    return found
