"""The strength of a verdict: of the known defects, the number that the levels of evidence it rests on catch.

`parity mutate --out` counts them and keeps the result under docs/measurements; a verdict reached on fewer levels than
there are says by how much weaker that is. Nothing is judged by these counts.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec

from parity.diff.comparison import OUTPUTS, level_of
from runners.errors import RegistryError
from runners.load import load

KIND: Final = "mutation"
KIND_OF_FORM: Final = "form"  # counts of imported outputs in a lossy form, which `parity calibrate --form` makes


@dataclass(frozen=True, kw_only=True)
class CatchCount:
    """Number of the known defects that the levels that judged catch together."""

    levels: tuple[str, ...]
    count: int
    defects: int
    limits_of: str  # case whose limits were tried
    date: str
    seen: str = ""  # how outputs were seen, if not whole: "without latents", "through ..."


class DefectRow(msgspec.Struct, frozen=True, kw_only=True):
    """One defect of a mutation score."""

    metrics: tuple[str, ...]  # beyond their limits
    equivalent: bool = False


class Strength(msgspec.Struct, frozen=True, kw_only=True):
    """Counts of one mutation score. Other keys of the file are for people."""

    kind: str
    limits_of: str  # case whose limits judged
    date: str
    defects: int
    killed: int
    killed_by_levels: dict[str, int]  # `key` of the levels that judged -> defects caught by these together
    rows: tuple[DefectRow, ...] = ()  # each defect
    equivalents: tuple[str, ...] = ()  # defects that the oracle showed to be none, which nothing counts
    form: str = ""  # of outputs that were judged, without latents, where it is not all of them as they are

    def caught_by(self, levels: Sequence[str], without: Collection[str] = ()) -> CatchCount | None:
        """Number of known defects that these levels catch together; None if that was not counted.

        Args:
            levels: that judged.
            without: metrics of outputs that could not judge, since latents were not given. Of outputs alone the rows
                tell what is caught all the same: a defect of which another metric of outputs is beyond its limit.
        """
        count = self.killed_by_levels.get(key(levels))
        if bool(self.form) and not without:
            return None
        if without and not self.form:
            count = self._caught_without(without) if key(levels) == OUTPUTS else None
        if count is None:
            return None
        return CatchCount(
            levels=tuple(levels),
            count=count,
            defects=self.defects,
            limits_of=self.limits_of,
            date=self.date,
            seen=f"through {self.form}" if self.form else "without latents" if without else "",
        )

    def _caught_without(self, without: Collection[str]) -> int:
        return sum(beyond_without(row.metrics, without) for row in self.rows if not row.equivalent)


def beyond_without(metrics: Collection[str], without: Collection[str]) -> bool:
    """True if, of metrics beyond their limits, one is of outputs and not among those that could not judge."""
    return any(level_of(name) == OUTPUTS and name not in without for name in metrics)


def key(levels: Sequence[str]) -> str:
    """The name of a set of levels in the file."""
    return "+".join(levels)


def load_strength(path: Path, kind: str = KIND) -> Strength | None:
    """Read the counts; None where nobody has saved any. Raises: RegistryError for a file that is no such score."""
    if not path.is_file():
        return None
    found = load(path, Strength, RegistryError, "a mutation score comes from `parity mutate --out FILE`")
    if found.kind != kind:
        raise RegistryError(f"{path} is a file of kind {found.kind!r}, not {kind!r}; run `parity mutate --out {path}`.")
    return found
