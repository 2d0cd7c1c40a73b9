"""The checkpoint of a long measurement: which members are measured, for how long, what is kept already.

On a CPU with a tiny model a population is measured in one go. At full size a member takes most of a minute, so a file
keeps each as soon as it is measured, and a call ends in time; the same call goes on where the last one stopped. Members
of a calibration are metrics; those of a mutation score are trials (`parity.calibrate.mutation`).
"""

import time
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Generic, TypeVar

import msgspec
import torch

from parity.runs.environment import NUMERIC_KEYS, fingerprint
from parity.trace.atomic import write_json_atomic
from runners.errors import OutOfTimeError, RegistryError
from runners.load import load

SCHEMA_VERSION: Final = 1
Numbers = dict[str, float]


class Measured(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Anything that took a while to measure."""

    took_s: float = 0.0


MeasuredT = TypeVar("MeasuredT", bound=Measured)


class Member(Measured, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The measurements of one harmless variation, rewrite or defect."""

    metrics: dict[str, float | str]  # JSON holds infinities as strings
    findings: tuple[str, ...] = ()  # what the comparison refused outright
    shown_at: tuple[str, ...] = ()  # metrics of groups in which a defect departs first, or adds its error

    @property
    def numbers(self) -> Numbers:
        """The metrics."""
        return {name: float(value) for name, value in self.metrics.items()}


class _File(msgspec.Struct, Generic[MeasuredT], frozen=True, kw_only=True, forbid_unknown_fields=True):
    schema_version: int
    origin: dict[str, Any]
    members: dict[str, MeasuredT]


def measured_in(device: torch.device) -> dict[str, Any]:
    """Facts of this process and machine that the members of one population must share: all that changes numbers."""
    return {key: value for key, value in fingerprint(device).items() if key in (*NUMERIC_KEYS, "source_hash")}


@dataclass(kw_only=True)
class Checkpoint(Generic[MeasuredT]):
    """Takes members of one type one by one. With nothing more than that it takes them all and keeps nothing."""

    form: type[MeasuredT]
    made_by: str  # the command that keeps such files
    kept: Path | None = None
    others: tuple[Path, ...] = ()  # further kept files, of other shares, whose members are taken as they are
    minutes: float | None = None
    origin: dict[str, Any] = field(default_factory=dict)  # what a kept file must have been measured with
    _members: dict[str, MeasuredT] = field(default_factory=dict)
    begun_s: float = field(default_factory=time.monotonic)  # by that clock, when the minutes began
    _longest_s: float = 0.0

    def __post_init__(self) -> None:
        """Read what was kept.

        Raises: RegistryError if it is of another case, model or machine, if one of `others` is missing, or if two files
            say different things of one member.
        """
        for path in (*self.others, *([self.kept] if self.kept is not None and self.kept.is_file() else ())):
            for name, member in self._read(path).items():
                if self._members.setdefault(name, member) != member:
                    raise RegistryError(f"{path} has another {name!r} than an earlier file; leave one of them out.")
        self._longest_s = max((member.took_s for member in self._members.values()), default=0.0)

    def _read(self, path: Path) -> Mapping[str, MeasuredT]:
        remedy = f"samples are kept by `{self.made_by} --samples FILE`; give another file"
        generic: Any = _File
        found = load(path, generic[self.form], RegistryError, remedy, version=SCHEMA_VERSION)
        here = msgspec.json.decode(msgspec.json.encode(self.origin))
        if found.origin != here:
            changed = [name for name, value in here.items() if found.origin.get(name) != value]
            raise RegistryError(
                f"{path} was measured with another {', '.join(changed) or 'origin'}; give another --samples file."
            )
        members: Mapping[str, MeasuredT] = found.members
        return members

    def take(self, name: str, measure: Callable[[], MeasuredT]) -> MeasuredT:
        """A member, measured now or kept from before. Raises: OutOfTimeError if it would not end in time."""
        if name in self._members:
            return self._members[name]
        start_s = time.monotonic()
        if self.minutes is not None and start_s - self.begun_s + self._longest_s > self.minutes * 60:
            raise OutOfTimeError(
                f"Out of time before {name!r}, with {len(self._members)} members measured"
                + (f" and kept in {self.kept}; the same call goes on." if self.kept else "; give --samples FILE.")
            )
        measured = measure()
        took_s = time.monotonic() - start_s
        self._members[name] = msgspec.structs.replace(measured, took_s=round(took_s, 1))
        self._longest_s = max(self._longest_s, took_s)
        if self.kept is not None:
            document = {"schema_version": SCHEMA_VERSION, "origin": self.origin, "members": self._members}
            write_json_atomic(self.kept, msgspec.to_builtins(document))
        return self._members[name]


@dataclass(kw_only=True)
class CalibrationCheckpoint(Checkpoint[Member]):
    """The checkpoint of one case's populations, or of some of their members."""

    form: type[Member] = Member
    made_by: str = "parity calibrate"
    only: Collection[str] = ()  # ids of the members to measure; empty for all

    def require_known(self, known: Iterable[str]) -> None:
        """Refuse ids that no member has. Raises: RegistryError."""
        names = list(known)
        if unknown := sorted(set(self.only) - set(names)):
            raise RegistryError(f"--only names {', '.join(unknown)}; there are {', '.join(names)}.")

    def wants(self, name: str) -> bool:
        """True if a member is measured."""
        return not self.only or name in self.only
