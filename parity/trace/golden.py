"""Goldens: recorded official runs, one folder a case under `golden/`, changed by `parity bless` alone.

`golden/<case id>/` holds `case.toml`, its pictures, `golden.json` (reason, date, hashes, and what stood there before)
and `run/`, the official run as it was recorded. A case without a golden yet is the same folder without the last two.
Of a run too large for a repository, `run/` holds a reduced copy (`parity.trace.reduced`); the whole one goes to the
store (`parity.trace.store`), and `golden.json` names the hashes of its files.
"""

import json
import shutil
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec

from parity.trace.atomic import folder_atomic, write_json_atomic
from parity.trace.bundle import DATA_FILES, OUTPUTS_FILE, RUN_FILE, TRACE_FILE, Run, read_run, sha256_of
from parity.trace.places import project_root
from parity.trace.reduced import reduce_outputs, write_reduced, write_reduced_trace
from parity.trace.store import Store, Stored, open_store
from runners.case import Case, case_document, load_case
from runners.errors import CaseError, RunError

GOLDEN, WHOLE_GOLDEN = "golden", "whole-golden"  # names of references on the command line
GOLDEN_FILE = "golden.json"
CASE_FILE = "case.toml"
RUN_FOLDER = "run"
SCHEMA_VERSION = 1
KEPT_FILES = (OUTPUTS_FILE, TRACE_FILE)  # of a run; the clip and whole taps stay where they are
LARGEST_WHOLE_BYTES = 8 << 20  # of those files together; a larger golden is reduced


class Blessing(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Why and when a run became ground truth."""

    reason: str
    blessed_utc: str
    run_sha256: str  # of run.json, which holds the hashes of everything else
    source_sha256: str = ""  # of the run.json it was made from, which names more files and is what numbers refer to
    whole: dict[str, Stored] = {}  # file name to what the store holds, run.json too; empty if nothing was reduced


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


def blessing_of(case_id: str) -> Blessing:
    """How the golden of a case became what it is. Raises: RunError as `golden_of`."""
    golden_of(case_id)
    return _record(project_root() / "golden" / case_id / GOLDEN_FILE).history[-1]


def whole_golden_of(case_id: str, folder: Path, store: Store | None = None) -> Run:
    """The golden of a case with everything it had, brought from the store into `folder` where the golden is reduced.

    Raises: RunError as `golden_of`, and if the store does not have it, or has something else under its name.
    """
    golden, whole = golden_of(case_id), blessing_of(case_id).whole
    if not golden.reduced:
        return golden
    if not {RUN_FILE, OUTPUTS_FILE} <= whole.keys() <= {RUN_FILE, *DATA_FILES}:
        raise RunError(f"The golden of {case_id!r} names the files {sorted(whole)}; that is no run. Bless a run again.")
    if (folder / RUN_FILE).is_file() and sha256_of(folder / RUN_FILE) == whole[RUN_FILE].sha256:
        return read_run(folder)  # brought before; its files are held to their hashes again
    store = store or open_store()
    with folder_atomic(folder, RUN_FILE) as partial:
        for name, stored in whole.items():
            store.get(stored, partial / name)
        run = read_run(partial)
    if run.case_id != case_id or run.record.weights_hash != golden.record.weights_hash:
        raise RunError(f"{store.url} has a run of {run.case_id!r} in place of {case_id!r}; bless a run again.")
    return read_run(folder)


def reference_run(name: str, case_id: str) -> Run:
    """A run to compare with: `golden` for the recorded one, `whole-golden` for that from the store, else a folder."""
    if name == GOLDEN:
        return golden_of(case_id)
    if name == WHOLE_GOLDEN:
        return whole_golden_of(case_id, project_root() / "build" / "whole-golden" / case_id)
    return read_run(Path(name))


def bless(run: Run, reason: str, store: Store | None = None) -> Path:
    """Make an official run the ground truth of its case: the only way a golden changes.

    Args:
        run: of the official runner.
        reason: why it is the ground truth now.
        store: where a run larger than `LARGEST_WHOLE_BYTES` goes whole; None opens the one of `PARITY_STORE`.
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
        whole = _kept(run, new, store)
        document = msgspec.to_builtins(run.record)
        document["files"] = {path.name: sha256_of(path) for path in sorted(new.iterdir())}
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
                    source_sha256=sha256_of(run.folder / RUN_FILE),
                    whole=whole,
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


def _kept(run: Run, folder: Path, store: Store | None) -> dict[str, Stored]:
    """Put into `folder` what the repository keeps of a run, and into the store the rest; says what lies there."""
    names = [name for name in KEPT_FILES if run.has(name)]
    if sum((run.folder / name).stat().st_size for name in names) <= LARGEST_WHOLE_BYTES:
        for name in names:
            shutil.copyfile(run.folder / name, folder / name)
        return {}
    if run.has(TRACE_FILE):
        write_reduced_trace(run.folder, folder, len(run.record.step_s))
    write_reduced(folder, reduce_outputs(run.outputs()))
    store = store or open_store()
    return {name: store.put(run.folder / name) for name in (RUN_FILE, *run.record.files)}


def _record(path: Path) -> GoldenRecord:
    try:
        record = msgspec.convert(json.loads(path.read_bytes()), GoldenRecord)
    except (ValueError, RecursionError) as error:
        raise RunError(f"{path} does not have the form of a golden: {error}.") from error
    if record.schema_version != SCHEMA_VERSION or not record.history:
        raise RunError(f"{path} has schema version {record.schema_version}; this program reads {SCHEMA_VERSION}.")
    return record
