"""The file of a matrix: which cases, on which devices, by which runners; read strictly, checked on construction."""

import math
import os
import re
from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Final, Literal

import msgspec

from runners.catalogue import runner_and_tier
from runners.errors import ConfigError, ParityError
from runners.forge.weights import SCHEME
from runners.load import parse_toml, read_text
from runners.names import OWN_ENVIRONMENT, require_named
from runners.releases import RELEASES
from runners.strict import Strict

MAX_BYTES: Final = 1 << 20
MOST_REPEATS: Final = 100
MOST_OF_A_KIND: Final = 4096  # GPUs or cores that one row may want
LABEL: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:-]{0,59}")  # of a matrix, runner or device: a column, a file's name
REMEDY: Final = "docs/fleet.md shows every key"
Reports = Literal["all", "failing"]


class DeviceEntry(Strict, frozen=True, kw_only=True):
    """One kind of device, and what a row takes of a box that has it."""

    name: str
    device: Literal["cpu", "cuda"] = "cpu"
    num_cpus: int = 1
    num_gpus: int | None = None  # by default one on cuda; a runner may want more
    accelerator_type: str = ""  # as Ray calls it, such as H200; "" takes any
    threads: int | None = None  # that torch computes on; by default 1 on a CPU, else as many as num_cpus
    memory_gib: float | None = None  # that a row may take; by default its share of the machine

    def __post_init__(self) -> None:
        """Refuse a device that no box has. Raises: ConfigError."""
        _require_label("A device", self.name)
        if not 1 <= self.num_cpus <= MOST_OF_A_KIND:
            raise ConfigError(f"Device {self.name!r} has num_cpus = {self.num_cpus}; wanted 1 to {MOST_OF_A_KIND}.")
        least = 0 if self.device == "cpu" else 1
        most = 0 if self.device == "cpu" else MOST_OF_A_KIND
        if self.num_gpus is not None and not least <= self.num_gpus <= most:
            raise ConfigError(
                f"Device {self.name!r} is {self.device} and has num_gpus = {self.num_gpus}; wanted {least} to {most}."
            )
        if self.threads is not None and not 1 <= self.threads <= self.num_cpus:
            raise ConfigError(
                f"Device {self.name!r} has threads = {self.threads}; wanted 1 to its num_cpus, {self.num_cpus}."
            )
        if self.memory_gib is not None and not (math.isfinite(self.memory_gib) and self.memory_gib > 0):
            raise ConfigError(f"Device {self.name!r} has memory_gib = {self.memory_gib}; wanted more than 0.")
        if self.accelerator_type and not LABEL.fullmatch(self.accelerator_type):
            raise ConfigError(f"Device {self.name!r} has accelerator_type = {self.accelerator_type[:60]!r}.")

    @property
    def gpus(self) -> int:
        """GPUs that a row takes if no runner wants more."""
        return (0 if self.device == "cpu" else 1) if self.num_gpus is None else self.num_gpus

    @property
    def computing_threads(self) -> int:
        """CPU threads that a row computes on; one on a CPU, as every verb, since its number is part of the bits."""
        return self.threads or (1 if self.device == "cpu" else self.num_cpus)


class RunnerEntry(Strict, frozen=True, kw_only=True):
    """One engine under test. Paths are those of the boxes that run it; relative ones are beside the matrix file."""

    runner: str  # NAME[:TIER], or FILE.py:CLASS
    name: str = ""  # column of the grid; by default the runner
    python: str = ""  # interpreter to run it in; $NAME is an environment variable of the driver
    engine_root: str = ""  # checkout of the engine; comfyui only
    options: dict[str, str] = msgspec.field(default_factory=dict)  # of the engine itself
    num_gpus: int | None = None  # that it wants, more than the device says
    cases: tuple[str, ...] = ("*",)  # globs of ids: of the matrix's cases, those that it is asked for

    def __post_init__(self) -> None:
        """Refuse a runner that there is not. Raises: ConfigError."""
        try:
            require_named(runner_and_tier(self.runner)[0])
        except ParityError as error:
            raise ConfigError(f"runners: {error}") from error
        _require_label("A runner", self.label, "; give it a name of its own")
        if self.num_gpus is not None and not 1 <= self.num_gpus <= MOST_OF_A_KIND:
            raise ConfigError(f"Runner {self.label!r} has num_gpus = {self.num_gpus}; wanted 1 to {MOST_OF_A_KIND}.")
        if not self.cases:
            raise ConfigError(
                f"Runner {self.label!r} is asked for no case; name some in cases, or leave the runner out."
            )
        if runner_and_tier(self.runner)[0] in OWN_ENVIRONMENT and not self.python:
            raise ConfigError(
                f"Runner {self.label!r} runs in an environment of its own; name its interpreter with python."
            )

    @property
    def label(self) -> str:
        """Its column in the grid."""
        return self.name or self.runner

    def is_asked_for(self, case_id: str) -> bool:
        """True if it runs a case of the matrix."""
        return any(fnmatchcase(case_id, pattern) for pattern in self.cases)


class OfficialEntry(Strict, frozen=True, kw_only=True):
    """A checkout of the official code of a release that is not installed."""

    release: str
    root: str
    python: str = ""

    def __post_init__(self) -> None:
        """Refuse a release that is not known. Raises: ConfigError."""
        if self.release not in RELEASES:
            raise ConfigError(f"official: release {self.release[:40]!r}; known are {', '.join(RELEASES)}.")


class MatrixFile(Strict, frozen=True, kw_only=True):
    """The contents of a matrix file."""

    name: str  # of the matrix, by which its history is kept
    weights: str  # forge:PRESET:SEED, or a folder beside the file
    weights_hash: str = ""  # of the tensors of a folder that lies at that path on every box; "" brings it there
    cases: tuple[str, ...]  # globs of ids under golden/, or of TOML files beside the file
    runners: tuple[RunnerEntry, ...]
    devices: tuple[DeviceEntry, ...]
    official: tuple[OfficialEntry, ...] = ()
    repeats: int = 1  # runs of each runner, by turns; times are their median
    isolate: bool = False  # what each part of native's exact tier adds by itself, judged as well
    oracle: bool = False  # native in fp32 as well: how far from it each engine ends
    perf: bool = False  # hold times to the baselines of the machine
    taps: str = "*"  # pattern of those to record and compare; "" records none
    reports: Reports = "all"  # pages for every cell, or for those that are no parity
    limit_minutes: float | None = None  # of a row that nothing is known of yet

    def __post_init__(self) -> None:
        """Refuse a matrix that says nothing, or one thing twice. Raises: ConfigError."""
        if not re.fullmatch(r"[a-z0-9][A-Za-z0-9_.-]{0,59}", self.name):
            raise ConfigError(f"The name of a matrix is of letters, digits, '_', '.' and '-'; got {self.name[:80]!r}.")
        for what, given in (("cases", self.cases), ("runners", self.runners), ("devices", self.devices)):
            if not given:
                raise ConfigError(f"The matrix has no {what}; {REMEDY}.")
        _require_each_once("runners", [one.label for one in self.runners])
        _require_each_once("devices", [one.name for one in self.devices])
        _require_each_once("official", [one.release for one in self.official])
        if self.weights_hash and (is_forged(self.weights) or not re.fullmatch("[0-9a-f]{64}", self.weights_hash)):
            raise ConfigError(
                f"weights_hash is {self.weights_hash[:80]!r}; wanted 64 hex digits, and weights that are a folder."
            )
        if not 1 <= self.repeats <= MOST_REPEATS:
            raise ConfigError(f"repeats is {self.repeats}; wanted 1 to {MOST_REPEATS}.")
        limit = self.limit_minutes
        if limit is not None and not (math.isfinite(limit) and limit > 0):
            raise ConfigError(f"limit_minutes is {limit}; wanted more than 0.")


def load_matrix(path: Path) -> MatrixFile:
    """Read a matrix file. Raises: ConfigError naming the key or value that is wrong."""
    return parse_matrix(read_text(path, ConfigError, REMEDY, max_bytes=MAX_BYTES), str(path))


def parse_matrix(text: str, origin: str) -> MatrixFile:
    """A matrix from TOML text. Raises: ConfigError."""
    document: dict[str, Any] = parse_toml(text, origin, ConfigError, REMEDY)
    try:
        return msgspec.convert(document, MatrixFile, strict=True)
    except msgspec.ValidationError as error:
        if isinstance(error.__cause__, ConfigError):
            raise ConfigError(f"{origin}: {error.__cause__}") from None
        raise ConfigError(f"{origin} is no matrix: {error}; {REMEDY}.") from error


def is_forged(weights: str) -> bool:
    """True if weights are made where they are wanted, from a preset and a seed."""
    return weights.startswith(SCHEME)


def variable_of(text: str) -> str:
    """The environment variable that a path is, `$NAME`; "" if it is none."""
    return text[1:] if text.startswith("$") else ""


def path_on_boxes(text: str, beside: Path) -> str:
    """A path of a matrix file as boxes have it: that of the driver's variable, or made absolute beside the file."""
    if not text:
        return ""
    given = os.environ.get(variable_of(text), "") if variable_of(text) else text
    return str(beside.absolute() / given) if given else ""


def runners_there(file: MatrixFile) -> tuple[list[RunnerEntry], list[RunnerEntry]]:
    """The runners to run, and those left out because the variable that names their interpreter is not set."""
    there: list[RunnerEntry] = []
    left_out: list[RunnerEntry] = []
    for one in file.runners:
        unset = any(
            variable_of(text) and not os.environ.get(variable_of(text)) for text in (one.python, one.engine_root)
        )
        (left_out if unset else there).append(one)
    return there, left_out


def _require_label(what: str, label: str, remedy: str = "") -> None:
    if not LABEL.fullmatch(label):
        raise ConfigError(
            f"{what} is called {label[:80]!r}; wanted letters, digits, '_', '.', ':' and '-', at most 60{remedy}."
        )


def _require_each_once(what: str, labels: Sequence[str]) -> None:
    if twice := next((label for label in labels if labels.count(label) > 1), None):
        raise ConfigError(f"{what} has {twice!r} twice; names must differ.")
