"""A row: one case on one kind of device, with its reference and all engines, as data that travels to a box and back.

What goes out is everything that the box needs, whatever is large by its hash in the store; what comes back is verdicts,
small numbers, and hashes of what the box has put there.
"""

import hashlib
import json
from typing import Any, Final, Literal

import msgspec

from parity.fleet.matrix_file import DeviceEntry, Reports
from parity.runs.store import StoreEntry
from parity.trace.atomic import plain
from runners.errors import RunError
from runners.strict import Strict

SCHEMA_VERSION: Final = 1
UNJUDGED: Final = 2
RowState = Literal["done", "failed", "lost", "hung", "out of memory", "nowhere"]


class EngineOfRow(Strict, frozen=True, kw_only=True):
    """A runner as a box runs it; paths are of the box, and "" where there is none."""

    label: str
    runner: str  # NAME[:TIER], or FILE.py:CLASS
    python: str = ""
    engine_root: str = ""
    options: dict[str, str] = msgspec.field(default_factory=dict)
    num_gpus: int | None = None
    source: str = ""  # SHA-256 of FILE.py, so that a row of another one is another row


class OfficialOfRow(Strict, frozen=True, kw_only=True):
    """A checkout of the official code as a box has it."""

    root: str
    python: str = ""


class Row(Strict, frozen=True, kw_only=True):
    """Everything that decides what a row comes to."""

    schema_version: Literal[1] = SCHEMA_VERSION
    case: dict[str, Any]  # as `case_document` makes it
    pictures: dict[str, StoreEntry]  # path in the case's folder -> its content
    weights: str  # forge:PRESET:SEED, or a folder that boxes have; "" where files are given
    weights_hash: str = ""  # of the tensors in a folder that boxes have
    weights_files: dict[str, StoreEntry] = msgspec.field(
        default_factory=dict
    )  # path in the weights folder -> its content
    device: DeviceEntry
    official: OfficialOfRow | None  # None is what is installed
    engines: tuple[EngineOfRow, ...]
    repeats: int
    isolate: bool
    perf: bool
    taps: str
    reports: Reports
    oracle: bool = False  # native in fp32 as well, which every engine is held to
    code: str  # hash of the sources of `runners`: a box that has others is refused
    project: StoreEntry | None = None  # list of a project's limits, goldens and baselines; None is what ships

    @property
    def case_id(self) -> str:
        """Id of the case."""
        return str(self.case["id"])

    @property
    def place(self) -> str:
        """Case and device, which is how a row is told from the others of its matrix."""
        return f"{self.case_id}@{self.device.name}"

    @property
    def num_gpus(self) -> int:
        """GPUs of one box that it takes: as many as the engine that wants most."""
        return max([self.device.gpus, *(one.num_gpus or 0 for one in self.engines)])

    @property
    def key(self) -> str:
        """Hash of all of it, hex: equal rows are one row."""
        text = json.dumps(plain(msgspec.to_builtins(self)), sort_keys=True, allow_nan=False)
        return hashlib.sha256(text.encode()).hexdigest()


class Reference(Strict, frozen=True, kw_only=True):
    """The official run of a row."""

    files: dict[str, StoreEntry]  # of its folder
    reused: bool  # it was there already, of this very environment
    times_s: tuple[float, ...]  # end to end, of runs whose taps were recorded
    release: str
    peak_bytes: int = 0
    untapped_s: tuple[float, ...] = ()  # the same of runs that were made to be timed


class Rung(Strict, frozen=True, kw_only=True):
    """One engine's step of the ladder: what became of its outputs. None is what was not measured."""

    by_bits: bool  # judged by equality, not by limits
    judged: int  # metrics; 0 where nothing could be
    held: int  # of them within their limits
    most_used: str = ""  # the metric that uses most of its limit
    used: float | None = None  # of that limit; None beyond all measure
    frames_equal: bool = False
    sound_equal: bool = False
    frames_psnr_db: float | None = None  # of the worst frame; None where all are equal
    sound_snr_db: float | None = None  # of the worst channel; None where all are equal
    av_offset_ms: float | None = None
    # Distance of the final latent from that of the oracle in fp32, over the distance of the official run.
    video_from_fp32: float | None = None
    audio_from_fp32: float | None = None


class Cell(Strict, frozen=True, kw_only=True):
    """The outcome of one engine in a row."""

    engine: str
    code: int  # 0 parity, 1 not at parity or too slow, 2 could not judge
    why: str = ""  # the first line of the explanation, or what kept it from a verdict
    first_tap: str = ""  # where it first diverges
    first_place: str = ""  # the same for people, with its size
    profile: str = ""  # exact or limits
    taps_equal: int = 0
    taps_compared: int = 0
    times_s: tuple[float, ...] = ()  # end to end, of each repeat; with `perf` of runs that record no taps
    speed_ratio: float | None = None  # median of the reference's times over that of its own: above 1 is faster
    peak_bytes: int = 0
    same_bits_again: bool | None = None  # whether all repeats have the bits of the first; None without repeats
    rung: Rung | None = None  # of one that was compared
    perf: str = ""  # outcome beside the baseline, where that was asked for
    files: dict[str, StoreEntry] = msgspec.field(default_factory=dict)  # of its run's folder
    numbers: StoreEntry | None = None  # the comparison, as `parity gate --numbers` judges it again
    report: StoreEntry | None = None  # its page

    def __post_init__(self) -> None:
        """Refuse a code that is none. Raises: RunError."""
        if self.code not in (0, 1, 2):
            raise RunError(f"The cell of {self.engine[:60]!r} has the code {self.code}; wanted 0, 1 or 2.")


class RowResult(Strict, frozen=True, kw_only=True):
    """The result of a row. Only one that is done has cells, and only cells have a verdict."""

    schema_version: Literal[1] = SCHEMA_VERSION
    key: str
    case: str
    device: str
    state: RowState
    reason: str = ""  # of every state but done
    took_s: float = 0.0
    box: str = ""  # processor, as its driver or kernel names it
    reference: Reference | None = None
    cells: tuple[Cell, ...] = ()

    @property
    def place(self) -> str:
        """Case and device."""
        return f"{self.case}@{self.device}"

    @property
    def code(self) -> int:
        """The worst of its cells: what could not be judged (2), then what fails (1); a row that did not end is 2."""
        if self.state != "done" or not self.cells:
            return UNJUDGED
        return max(cell.code for cell in self.cells)


def not_done(row: Row, state: RowState, reason: str, took_s: float = 0.0) -> RowResult:
    """The result of a row that did not come to its end."""
    return RowResult(key=row.key, case=row.case_id, device=row.device.name, state=state, reason=reason, took_s=took_s)


def result_of(value: Any, row: Row) -> RowResult:
    """A result from what a box sent, which must be of this row, and have a cell of each engine.

    Raises: RunError if it is not.
    """
    try:
        found = msgspec.convert(value, RowResult, strict=True)
    except msgspec.ValidationError as error:
        raise RunError(f"What came back of {row.place} is no result of a row ({error}); run it again.") from error
    labels = [one.label for one in row.engines]
    whole = found.state != "done" or [cell.engine for cell in found.cells] == labels
    if (found.key, found.case, found.device) != (row.key, row.case_id, row.device.name) or not whole:
        raise RunError(
            f"What came back of {row.place} is of {found.place} with {len(found.cells)} of {len(labels)} cells."
        )
    return found
