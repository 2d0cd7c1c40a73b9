"""A run folder: written whole, read as a stranger's data.

`run.json` says what was run and where, `outputs.safetensors` holds what came out, `trace.safetensors` the sketches of
taps, `tensors.safetensors` whole taps, `video.mp4` the clip for people. The golden of a large run holds reduced outputs
instead of whole ones, and the checksums of taps whose sketches it leaves out (`parity.runs.reduced`). Every file's
SHA-256 stands in `run.json`; file names are fixed, so nothing in a run can point outside it.

Axes: F frame, H height, W width, C channel, N sample, T token, M mel bin.
"""

import re
import secrets
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property, partial
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import torch
from torch import Tensor

from parity.runs.encoding import Encoding
from parity.runs.environment import MOST_THREADS
from parity.runs.outputs import LATENTS, misshapen_outputs, read_outputs, write_outputs
from parity.runs.outputs import OUTPUTS_FILE as OUTPUTS_FILE
from parity.runs.sizes import MAX_RATE_HZ, MOST_BLOCKS, most_bytes, most_taps
from parity.runs.video_file import write_mp4
from parity.taps.pattern import MAX_LENGTH
from parity.trace.atomic import write_json_atomic
from parity.trace.checksums import CHECKSUMS_FILE
from parity.trace.file import Trace, trace_in
from runners.case import CASE_ID, Case, case_document
from runners.errors import CaseError, MediaError, RunError
from runners.files import HeldFile, sha256_of
from runners.load import load
from runners.names import NAME, NAMES, TAPS_OWED
from runners.protocol import TAPS_OFFERED, Outcome
from runners.releases import REFERENCES, RELEASES
from runners.request import MAX_FRAME_RATE

T = TypeVar("T")
SCHEMA_VERSION = 1
RUN_FILE = "run.json"
TRACE_FILE = "trace.safetensors"
TENSORS_FILE = "tensors.safetensors"
VIDEO_FILE = "video.mp4"
REDUCED_FILE = "reduced.safetensors"
KEY_FRAME_FILES = ("frame_first.png", "frame_middle.png", "frame_last.png")
MIDDLE_FRAME_FILE = KEY_FRAME_FILES[1]  # the one that every reduced run has
DATA_FILES = (OUTPUTS_FILE, TRACE_FILE, CHECKSUMS_FILE, TENSORS_FILE, VIDEO_FILE, REDUCED_FILE, *KEY_FRAME_FILES)
MOST_OF_A_LABEL = 100  # characters; a hash has 64
MAX_RUN_BYTES = 4 << 20  # of run.json; one has 6 kB
IMPORTED = "imported"  # key of a run's details: `Imported`


class RunManifest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The contents of `run.json`."""

    schema_version: int
    case: dict[str, Any]
    inputs: dict[str, str]  # picture's path in the case to its SHA-256
    runner: str
    tier: str
    dtype: str
    reference: str
    weights_hash: str
    model_version: str
    environment: dict[str, Any]
    created_utc: str
    frame_rate: float
    sample_rate_hz: int
    sigmas: list[float]
    end_to_end_s: float
    stage_s: dict[str, float]
    step_s: list[float]
    peak_bytes: int
    details: dict[str, Any]
    files: dict[str, str]  # file name to SHA-256
    num_blocks: int | None = None  # of the transformer, which says what taps a whole trace has; older runs lack it
    run_id: str = ""  # random, which tells a run from its copy; older runs lack it
    loras: dict[str, str] = {}  # path in the case to the hash of its tensors


class ImportRecord(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The record of an import in the manifest of its run, in `details` under `IMPORTED`."""

    form: str  # label of a `parity.runs.encoding.Encoding`
    latents: bool  # whether the final latents were given
    sources: dict[str, str]  # "frames", "sound", "latents", "taps": SHA-256 of what was read
    doubts: tuple[tuple[str, str], ...] = ()  # where and in which words a file contradicts the case or itself

    @property
    def encoding(self) -> Encoding:
        """The form. Raises: MediaError for a label that is none."""
        return Encoding.of_label(self.form)


@dataclass(frozen=True, kw_only=True)
class RunOutputs:
    """The outputs of a run; satisfies `parity.diff.outputs.Outputs`."""

    video_frames: Tensor  # uint8 (F, H, W, 3)
    audio_waveform: Tensor  # fp32 (C, N)
    video_latent: Tensor | None  # (1, 128, F', H', W'); None of imported outputs without latents
    audio_latent: Tensor | None  # (1, 8, T, M)
    frame_rate: float
    sample_rate: int


@dataclass(frozen=True, kw_only=True)
class Run:
    """A run folder that has been checked."""

    folder: Path
    manifest: RunManifest
    _kept: dict[Hashable, Any] = field(default_factory=dict, init=False, repr=False, compare=False)

    @property
    def offers(self) -> str:
        """Patterns of the taps that its runner owes, divided by blanks; empty if it has no internals to show.

        Of a known runner that is what we know of it; only one of somebody's own is taken at its word.
        """
        if self.manifest.runner in TAPS_OWED:
            return TAPS_OWED[self.manifest.runner]
        before_it_was_recorded = ["*"] if self.has(TRACE_FILE) else []
        return " ".join(map(str, self.manifest.details.get(TAPS_OFFERED, before_it_was_recorded)))

    @cached_property
    def imported(self) -> ImportRecord | None:
        """The record of its import; None of a run that was executed here. Raises: RunError if that has not its form."""
        return imported_of(self.folder / RUN_FILE, self.manifest)

    @cached_property
    def case(self) -> Case:
        """The case that was run, without the folder of its pictures. Raises: RunError if it is no case."""
        return case_of_manifest(self.manifest.case, str(self.folder))

    def most_bytes(self, name: str) -> int:
        """The largest size that a file of DATA_FILES of this run may have."""
        return most_bytes(name, self.case, self.manifest.num_blocks)

    @property
    def case_id(self) -> str:
        """Id of the case that was run."""
        return str(self.manifest.case.get("id"))

    @property
    def reduced(self) -> bool:
        """True if the run holds reduced outputs, not whole ones."""
        return OUTPUTS_FILE not in self.manifest.files

    @cached_property
    def trace(self) -> Trace:
        """The sketches of its taps, read once. Raises: RunError if there are none, or they are damaged."""
        if self.imported is not None and not self.has(TRACE_FILE):
            raise RunError(
                f"{self.folder} was imported without taps, so only its outputs can be judged (`parity gate`); import "
                "it again with --taps-from and --map, and it shows where it departs."
            )
        if not self.has(TRACE_FILE):
            raise RunError(f"{self.folder} holds no {TRACE_FILE}; record it again with taps on.")
        checksums = self.file(CHECKSUMS_FILE) if self.has(CHECKSUMS_FILE) else None
        return trace_in(self.file(TRACE_FILE), most_taps(self.case, self.manifest.num_blocks), checksums)

    def outputs(self) -> RunOutputs:
        """The outputs, read once. Raises: RunError if one is missing or has another form, or they are reduced."""
        return self.once("outputs", self._read_outputs)

    def misshapen_outputs(self) -> list[tuple[str, str]]:
        """Whole outputs of a shape that none have, by name, with the shape in words; a run with any cannot be read."""
        if self.reduced:
            return []
        read = partial(misshapen_outputs, self.file(OUTPUTS_FILE), self.most_bytes(OUTPUTS_FILE))
        return self.once("misshapen outputs", lambda: list(read()))

    def once(self, what: Hashable, read: Callable[[], T]) -> T:
        """The value that `read` gives, read when it is first asked for under that name, and kept with the run."""
        if what not in self._kept:
            self._kept[what] = read()
        kept: T = self._kept[what]
        return kept

    def _read_outputs(self) -> RunOutputs:
        if self.reduced:
            raise RunError(
                f"{self.folder} holds reduced outputs; fetch the whole run from the store with `parity fetch`."
            )
        given = self.imported is None or self.imported.latents
        read = read_outputs(self.file(OUTPUTS_FILE), self.most_bytes(OUTPUTS_FILE), latents=given)
        tensors: dict[str, Any] = {**dict.fromkeys(LATENTS), **read}
        return RunOutputs(frame_rate=self.manifest.frame_rate, sample_rate=self.manifest.sample_rate_hz, **tensors)

    def has(self, name: str) -> bool:
        """True if the run holds a file of DATA_FILES."""
        return name in self.manifest.files

    @property
    def sha256(self) -> str:
        """Hash of the bytes of run.json that were read."""
        return self.file(RUN_FILE).sha256

    def file(self, name: str) -> HeldFile:
        """A file of the run, run.json or one of DATA_FILES it holds, open since it was held to its hash.

        Raises: RunError if it is missing or does not have the hash that run.json gives.
        """
        return self.once(("file", name), lambda: self._held(name))

    def _held(self, name: str) -> HeldFile:
        path = self.folder / name
        if name == RUN_FILE:
            return _record_file(path)
        if path.is_symlink() or not path.is_file():
            raise RunError(f"{path} is missing, though {RUN_FILE} lists it; the run is incomplete.")
        file = HeldFile(path, RunError, "it is no file of a run of its case", max_bytes=self.most_bytes(name))
        if file.sha256 != self.manifest.files[name]:
            raise RunError(f"{path} does not have the hash that {RUN_FILE} gives; it was changed after the run.")
        return file

    def moved_to(self, folder: Path) -> "Run":
        """The same run, its files held, after its folder was given another name."""
        moved = Run(folder=folder, manifest=self.manifest)
        moved._kept.update({key: kept for key, kept in self._kept.items() if isinstance(kept, HeldFile)})
        return moved


def write_run(
    folder: Path,
    case: Case,
    outcome: Outcome,
    *,
    runner: str,
    tier: str,
    dtype: str,
    weights_hash: str,
    model_version: str,
    environment: dict[str, Any],
    end_to_end_s: float,
    num_blocks: int | None,
    loras: dict[str, str],
) -> None:
    """Fill a (temporary) folder with a run; files already there under the names of DATA_FILES become part of it.

    Raises: RunError if the outputs cannot be written, MediaError if the clip cannot be encoded.
    """
    write_outputs(folder, outcome)
    write_mp4(
        folder / VIDEO_FILE,
        outcome.video_frames,
        outcome.frame_rate,
        outcome.audio_waveform,
        outcome.sample_rate_hz,
    )
    manifest = RunManifest(
        schema_version=SCHEMA_VERSION,
        case=case_document(case),
        inputs={image.path: sha256_of(case.image_path(image)) for image in case.request.images},
        runner=runner,
        tier=tier,
        dtype=dtype,
        reference=case.reference,
        weights_hash=weights_hash,
        model_version=model_version,
        environment=environment,
        created_utc=datetime.now(UTC).isoformat(timespec="seconds"),
        frame_rate=outcome.frame_rate,
        sample_rate_hz=outcome.sample_rate_hz,
        sigmas=outcome.sigmas.tolist(),
        end_to_end_s=end_to_end_s,
        stage_s=outcome.stage_s,
        step_s=outcome.step_s,
        peak_bytes=outcome.peak_bytes,
        details=outcome.details,
        files={
            name: sha256_of(folder / name, max_bytes=most_bytes(name, case, num_blocks))
            for name in DATA_FILES
            if (folder / name).is_file()
        },
        num_blocks=num_blocks,
        run_id=secrets.token_hex(16),
        loras=loras,
    )
    write_json_atomic(folder / RUN_FILE, msgspec.to_builtins(manifest))


def case_id_in(folder: Path) -> str | None:
    """The id of the case whose run a folder holds, be the run good or damaged; None if it holds none."""
    path = folder / RUN_FILE
    if folder.is_symlink() or path.is_symlink() or not path.is_file():
        return None
    try:
        document = load(path, dict, RunError, "make the run again", max_bytes=MAX_RUN_BYTES)
    except RunError:
        return None
    case = document.get("case")
    of_a_run = isinstance(case, dict) and {"runner", "reference", "files"} <= document.keys()
    return str(case.get("id")) if of_a_run and isinstance(case, dict) else None


def holds_run(folder: Path) -> bool:
    """True if a folder holds a run, good or damaged, and so may be replaced where that is asked for."""
    return case_id_in(folder) is not None


def read_run(folder: Path) -> Run:
    """Open a run folder and check every file against its hash.

    Raises: RunError if the folder is no run, is of another schema version, is incomplete, or has been changed.
    """
    path = folder / RUN_FILE
    if not folder.is_dir():
        raise RunError(f"There is no folder {folder}. Name one that `parity run --out` made.")
    if not path.is_file() or path.is_symlink():
        raise RunError(f"{folder} is not a run: it has no {RUN_FILE}. Make one with `parity run --out {folder}`.")
    file = _record_file(path)
    manifest = load(
        file,
        RunManifest,
        RunError,
        "make the run again",
        max_bytes=MAX_RUN_BYTES,
        version=SCHEMA_VERSION,
        floats=("sigmas",),
    )
    _check_values(path, manifest)
    unknown = sorted(manifest.files.keys() - set(DATA_FILES))
    reduced = {REDUCED_FILE, MIDDLE_FRAME_FILE} <= manifest.files.keys()
    if unknown or not (OUTPUTS_FILE in manifest.files or reduced):
        raise RunError(
            f"{path} lists files {sorted(manifest.files)}; wanted {OUTPUTS_FILE} and others of {DATA_FILES}."
        )
    unsure = folder / CHECKSUMS_FILE  # read wherever it lies beside a trace, in the place of sketches
    if unsure.exists() and not (reduced and CHECKSUMS_FILE in manifest.files):
        raise RunError(f"{unsure} is no part of this run: only a reduced golden has one, and lists it. Remove it.")
    run = Run(folder=folder, manifest=manifest)
    run.once(("file", RUN_FILE), lambda: file)
    for name in manifest.files:
        run.file(name)
    return run


def _record_file(path: Path) -> HeldFile:
    return HeldFile(path, RunError, "make the run again", max_bytes=MAX_RUN_BYTES)


def case_of_manifest(document: dict[str, Any], origin: str, folder: str = "") -> Case:
    """The case that a run recorded, its pictures looked for in `folder`. Raises: RunError if it is no case."""
    try:
        return msgspec.convert({**document, "folder": folder}, Case, strict=True)
    except (msgspec.ValidationError, CaseError) as error:
        raise RunError(f"The case in {origin} is not one that this program reads: {error}.") from error


def _check_labels(path: Path, manifest: RunManifest) -> None:
    """Refuse names, dates and times that no run has, and that a verdict would print. Raises: RunError."""
    if not re.fullmatch(NAME, manifest.runner):
        raise RunError(
            f"{path} says its runner is {manifest.runner[:60]!r}; a runner's name is of small letters, digits, '_', "
            "'.' and '-', 40 at most."
        )
    for key in ("tier", "dtype", "weights_hash", "model_version", "created_utc", "run_id"):
        label = getattr(manifest, key)
        if len(label) > MOST_OF_A_LABEL:
            raise RunError(f"{path} has a {key} of {len(label)} characters; wanted {MOST_OF_A_LABEL} at most.")
    if manifest.peak_bytes < 0:
        raise RunError(f"{path} says that {manifest.peak_bytes} bytes were used at most; wanted 0 or more.")


def _check_values(path: Path, manifest: RunManifest) -> None:
    """Refuse values that a program may trip over. Raises: RunError."""
    case_id = manifest.case.get("id")
    if not (isinstance(case_id, str) and re.fullmatch(CASE_ID, case_id)):
        raise RunError(f"{path} has the case id {case_id!r}, which is none; the run is damaged.")
    follows = manifest.case.get("reference", next(iter(RELEASES)))
    if manifest.reference not in REFERENCES or manifest.reference != follows:  # becomes the name of a folder
        raise RunError(
            f"{path} says that the run follows {manifest.reference[:40]!r}, and its case {str(follows)[:40]!r}; wanted "
            f"the same, and one of {', '.join(REFERENCES)}. The run is damaged, or of a later program."
        )
    if not (0 < manifest.frame_rate <= MAX_FRAME_RATE and 0 < manifest.sample_rate_hz <= MAX_RATE_HZ):  # nor NaN
        raise RunError(
            f"{path} says {manifest.frame_rate} frames and {manifest.sample_rate_hz} samples a second; wanted more "
            f"than 0 and at most {MAX_FRAME_RATE} and {MAX_RATE_HZ}."
        )
    for key in ("threads", "cores"):
        count = manifest.environment.get(key)
        if count is not None and not (type(count) is int and 1 <= count <= MOST_THREADS):
            raise RunError(f"{path} says its environment has {str(count)[:40]!r} {key}; wanted 1 to {MOST_THREADS}.")
    taps = manifest.details.get(TAPS_OFFERED, [])
    listed = isinstance(taps, list) and all(isinstance(pattern, str) for pattern in taps)
    if not listed or len(" ".join(taps)) > MAX_LENGTH:
        raise RunError(
            f"{path} says its runner offers the taps {str(taps)[:200]}; wanted a list of patterns, together at most "
            f"{MAX_LENGTH} characters."
        )
    if manifest.num_blocks is not None and not 1 <= manifest.num_blocks <= MOST_BLOCKS:
        raise RunError(f"{path} says the model has {manifest.num_blocks} blocks; wanted 1 to {MOST_BLOCKS}.")
    imported_of(path, manifest)
    _check_labels(path, manifest)
    steps = case_of_manifest(manifest.case, str(path)).total_steps
    if len(manifest.step_s) > steps:
        raise RunError(f"{path} has times of {len(manifest.step_s)} steps; its case has {steps}.")


def imported_of(path: Path, manifest: RunManifest) -> ImportRecord | None:
    """The record of an import in a manifest; None of a run that was executed here. Raises: RunError."""
    if IMPORTED not in manifest.details:
        return None
    if manifest.runner in NAMES:
        raise RunError(f"{path} says that it was imported from {manifest.runner!r}, which is run here; run it.")
    try:
        found = msgspec.convert(manifest.details[IMPORTED], ImportRecord, strict=True)
        _ = found.encoding
    except (msgspec.ValidationError, MediaError) as error:
        raise RunError(f"{path} says of its import what has not its form ({error}); import the run again.") from error
    return found


def dtype_label(dtype: torch.dtype) -> str:
    """The name of a run's dtype: bf16 or fp32."""
    return {torch.bfloat16: "bf16", torch.float32: "fp32"}[dtype]
