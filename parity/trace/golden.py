"""Goldens: recorded official runs, one folder a case under `golden/`, changed by `parity bless` alone.

`golden/<case id>/` holds `case.toml`, its pictures, `golden.json` (reason, date, hashes, and what stood there before)
and `run/`, the official run as it was recorded. A case without a golden yet is the same folder without the last two.
"""

import json
import shutil
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec

from parity.trace.atomic import write_json_atomic
from parity.trace.bundle import OUTPUTS_FILE, RUN_FILE, TRACE_FILE, Run, read_run, sha256_of
from parity.trace.places import project_root
from runners.case import Case, case_document, load_case
from runners.errors import CaseError, RunError

GOLDEN_FILE = "golden.json"
CASE_FILE = "case.toml"
RUN_FOLDER = "run"
SCHEMA_VERSION = 1
KEPT_FILES = (OUTPUTS_FILE, TRACE_FILE)  # of a run; the clip and whole taps stay where they are


class Blessing(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Why and when a run became ground truth."""

    reason: str
    blessed_utc: str
    run_sha256: str  # of run.json, which holds the hashes of everything else


class GoldenRecord(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The contents of `golden.json`, the newest blessing last."""

    schema_version: int
    case_sha256: str
    history: tuple[Blessing, ...]


def find_case(case: str, overrides: dict[str, Any] | None = None) -> Case:
    """A case by its id under golden/ or by the path of its file. Raises: CaseError."""
    path = Path(case)
    if path.suffix != ".toml" and not path.is_file():
        if path.name != case or case.startswith("."):
            raise CaseError(f"{case!r} is neither a TOML file nor an id under golden/; give one of them.")
        path = project_root() / "golden" / case / CASE_FILE
    return load_case(path, overrides)


def golden_of(case_id: str) -> Run:
    """The recorded official run of a case. Raises: RunError if there is none, or it was changed without a blessing."""
    folder = project_root() / "golden" / case_id
    if Path(case_id).name != case_id or not (folder / GOLDEN_FILE).is_file():
        raise RunError(f"Case {case_id!r} has no golden; record one with `parity bless RUN --reason TEXT`.")
    record = _record(folder / GOLDEN_FILE)
    if sha256_of(folder / CASE_FILE) != record.case_sha256:
        raise RunError(f"{folder / CASE_FILE} is not the case its golden was recorded for; bless a new run of it.")
    run_file = folder / RUN_FOLDER / RUN_FILE
    if not run_file.is_file() or sha256_of(run_file) != record.history[-1].run_sha256:
        raise RunError(f"The golden of {case_id!r} was changed without `parity bless`; restore it or bless a run.")
    run = read_run(folder / RUN_FOLDER)
    if run.case_id != case_id:
        raise RunError(f"The golden in {folder} is of case {run.case_id!r}; bless a run of {case_id!r}.")
    return run


def bless(run: Run, reason: str) -> Path:
    """Make an official run the ground truth of its case: the only way a golden changes.

    Raises: RunError if the run is not official, the case under golden/ is another one, or the reason is empty.
    """
    if not reason.strip():
        raise RunError("A golden needs a reason; say with --reason why this run is the ground truth now.")
    if run.record.runner != "official":
        raise RunError(f"{run.folder} is a run of {run.record.runner!r}; only an official run becomes ground truth.")
    folder = project_root() / "golden" / run.case_id
    case = load_case(folder / CASE_FILE)
    if case_document(case) != run.record.case:
        raise RunError(f"{run.folder} is not a run of {folder / CASE_FILE} as it stands; run that file, unchanged.")
    for name, wanted in run.record.inputs.items():
        if sha256_of(folder / name) != wanted:
            raise RunError(f"{folder / name} is not the picture that {run.folder} was run with; run the case again.")
    older: tuple[Blessing, ...] = ()
    if (folder / GOLDEN_FILE).is_file():
        older = _record(folder / GOLDEN_FILE).history
    new = Path(tempfile.mkdtemp(dir=folder, prefix=f".{RUN_FOLDER}."))
    old = folder / f".{RUN_FOLDER}.old"
    try:
        document = msgspec.to_builtins(run.record)
        document["files"] = {name: run.record.files[name] for name in KEPT_FILES if run.has(name)}
        for name in document["files"]:
            shutil.copyfile(run.folder / name, new / name)
        write_json_atomic(new / RUN_FILE, document)
        new.chmod(0o755)
        read_run(new)
        record = GoldenRecord(
            schema_version=SCHEMA_VERSION,
            case_sha256=sha256_of(folder / CASE_FILE),
            history=(
                *older,
                Blessing(
                    reason=reason.strip(),
                    blessed_utc=datetime.now(UTC).isoformat(timespec="seconds"),
                    run_sha256=sha256_of(new / RUN_FILE),
                ),
            ),
        )
        # Between these two renames the golden is absent or does not fit golden.json: refused, never half believed.
        if (folder / RUN_FOLDER).exists():
            (folder / RUN_FOLDER).rename(old)
        new.rename(folder / RUN_FOLDER)
        write_json_atomic(folder / GOLDEN_FILE, msgspec.to_builtins(record))
    finally:
        shutil.rmtree(new, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)
    return folder


def _record(path: Path) -> GoldenRecord:
    try:
        record = msgspec.convert(json.loads(path.read_bytes()), GoldenRecord)
    except (ValueError, RecursionError) as error:
        raise RunError(f"{path} does not have the form of a golden: {error}.") from error
    if record.schema_version != SCHEMA_VERSION or not record.history:
        raise RunError(f"{path} has schema version {record.schema_version}; this program reads {SCHEMA_VERSION}.")
    return record
