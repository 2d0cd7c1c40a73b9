"""Goldens: recorded official runs, one folder a case under `golden/`, changed by `parity bless` alone.

`golden/<case id>/` holds `case.toml`, its pictures, `golden.json` (reason, date, hashes, and what stood there before)
and `run/`, the official run as it was recorded. A case without a golden yet is the same folder without the last two.
Of a run too large for a repository, `run/` holds a reduced copy (`parity.runs.reduced`); the whole one goes to the
store (`parity.runs.store`), and `golden.json` names the hashes of its files.

A case that moved to another release keeps what held before in `previous/<release>/`: case file, `golden.json`, `run/`
and saved numbers, as they were; the pictures are the case's. `golden@<release>` names it.
"""

import hashlib
import re
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec

from parity.runs.folder import (
    DATA_FILES,
    KEY_FRAME_FILES,
    OUTPUTS_FILE,
    REDUCED_FILE,
    RUN_FILE,
    TRACE_FILE,
    Run,
    read_run,
    sha256_of,
)
from parity.runs.places import project_root
from parity.runs.reduced import reduce_outputs, write_reduced, write_reduced_trace
from parity.runs.store import Store, StoreEntry, open_store
from parity.trace.atomic import folder_atomic, write_bytes_atomic, write_json_atomic
from runners.case import CASE_ID, Case, case_document, load_case, parse_case
from runners.errors import CaseError, RunError
from runners.load import load
from runners.releases import RELEASES

GOLDEN, WHOLE_GOLDEN = "golden", "whole-golden"  # names of references on the command line
GOLDEN_FILE = "golden.json"
CASE_FILE = "case.toml"
RUN_FOLDER = "run"
NUMBERS_FOLDER = "numbers"
PREVIOUS_FOLDER = "previous"
OLD_RUN, OLD_CASE = f".{RUN_FOLDER}.old", f".{CASE_FILE}.old"  # while a blessing replaces them
SCHEMA_VERSION = 1
KEPT_FILES = (OUTPUTS_FILE, TRACE_FILE)  # of a run; the clip and whole taps stay where they are
LARGEST_WHOLE_BYTES = 8 << 20  # of those files together; a larger golden is reduced


class Blessing(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The record of a run that became ground truth: the reason and the date."""

    reason: str
    blessed_utc: str
    run_sha256: str  # of run.json, which holds the hashes of everything else
    source_sha256: str = ""  # of the run.json it was made from, which names more files and is what numbers refer to
    whole: dict[str, StoreEntry] = {}  # file name to what the store holds, run.json too; empty if nothing was reduced
    moved_from: str = ""  # release that was the truth until then, if that changed


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


def golden_of(case_id: str, release: str | None = None) -> Run:
    """The recorded official run of a case; that of an earlier release, if one is named.

    Raises: RunError if there is none, or it was changed without a blessing.
    """
    folder = _folder_of(case_id)
    if not has_golden(case_id):
        raise RunError(f"Case {case_id!r} has no golden; record one with `parity bless RUN --reason TEXT`.")
    if release is None:
        return _checked(folder, case_id)
    now = _checked(folder, case_id)
    if now.record.reference == release:
        return now
    kept = releases_kept(case_id)
    if release not in kept:
        raise RunError(
            f"Case {case_id!r} has no golden of release {release!r}; it has {', '.join((now.record.reference, *kept))}."
        )
    run = _checked(folder / PREVIOUS_FOLDER / release, case_id)
    if run.record.reference != release:
        raise RunError(f"{run.folder} follows release {run.record.reference}, not {release}; restore it.")
    return run


def has_golden(case_id: str) -> bool:
    """True if a case has a golden, be it good or not. Raises: RunError for what is no case id."""
    return (_folder_of(case_id) / GOLDEN_FILE).is_file()


def releases_kept(case_id: str) -> tuple[str, ...]:
    """The earlier releases whose goldens a case still has."""
    folder = _folder_of(case_id) / PREVIOUS_FOLDER
    return tuple(release for release in RELEASES if (folder / release / GOLDEN_FILE).is_file())


def goldens_of_request(run: Run) -> Iterator[Run]:
    """Every golden, kept ones too, of a run's request, pictures and weights, whatever its name and release.

    Raises: RunError if one of them is not whole.
    """

    def request(document: dict[str, Any]) -> dict[str, Any]:
        return {**document, "id": None, "reference": None}

    for path in sorted((project_root() / "golden").glob(f"*/**/{GOLDEN_FILE}")):
        recorded = read_run(path.parent / RUN_FOLDER).record
        same = (recorded.inputs, recorded.weights_hash) == (run.record.inputs, run.record.weights_hash)
        if same and request(recorded.case) == request(run.record.case):
            yield _checked(path.parent, str(recorded.case["id"]))


def _folder_of(case_id: str) -> Path:
    if not re.fullmatch(CASE_ID, case_id):
        raise RunError(f"{case_id!r} is no case id, so it has no golden.")
    return project_root() / "golden" / case_id


def _checked(folder: Path, case_id: str) -> Run:
    """The golden in a folder, held to what `golden.json` there says."""
    pictures, record = _folder_of(case_id), _record(folder / GOLDEN_FILE)
    if sha256_of(folder / CASE_FILE) != record.case_sha256:
        raise RunError(f"{folder / CASE_FILE} is not the case its golden was recorded for; bless a new run of it.")
    run_file = folder / RUN_FOLDER / RUN_FILE
    if not run_file.is_file() or sha256_of(run_file) != record.history[-1].run_sha256:
        raise RunError(f"The golden of {case_id!r} was changed without `parity bless`; restore it or bless a run.")
    run = read_run(folder / RUN_FOLDER)
    if run.case_id != case_id:
        raise RunError(f"The golden in {folder} is of case {run.case_id!r}; bless a run of {case_id!r}.")
    for name, wanted in run.record.inputs.items():
        picture = pictures / name
        if not picture.is_file() or sha256_of(picture) != wanted:
            raise RunError(f"{picture} is not the picture that the golden in {folder} was recorded with; restore it.")
    return run


def blessing_of(case_id: str) -> Blessing:
    """The record of how the golden of a case became what it is. Raises: RunError as `golden_of`."""
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
    return replace(run, folder=folder)


def reference_run(name: str, case_id: str) -> Run:
    """A run to compare with: `golden` for the recorded one, `golden@RELEASE` for that of an earlier release,
    `whole-golden` for that from the store, else a folder."""
    if name == GOLDEN:
        return golden_of(case_id)
    if name.startswith(f"{GOLDEN}@"):
        return golden_of(case_id, name.removeprefix(f"{GOLDEN}@"))
    if name == WHOLE_GOLDEN:
        return whole_golden_of(case_id, project_root() / "build" / "whole-golden" / case_id)
    return read_run(Path(name))


def bless(
    run: Run,
    reason: str,
    store: Store | None = None,
    *,
    reference: str | None = None,
    reduced: bool = False,
    drop_previous: bool = False,
) -> Path:
    """Make an official run the ground truth of its case: the only way a golden changes.

    Args:
        run: of the official runner; the golden itself, if it is reduced, to keep no more of it than is kept today.
        reason: why it is the ground truth now.
        store: where a reduced run goes whole; None opens the one of `PARITY_STORE`.
        reference: release to move the case to, which the run must be of; the golden until then is kept as previous.
        reduced: keep a reduced run also where it is no larger than `LARGEST_WHOLE_BYTES`.
        drop_previous: let go of all previous goldens of the case, that one too.
    Raises: RunError if the run is not official, the case under golden/ is another one, or the reason is empty.
    """
    undo_interrupted(run.case_id)
    text = require_blessable(run, reason, reference)
    folder = _folder_of(run.case_id)
    before = load_case(folder / CASE_FILE)
    moved = run.record.reference != before.reference
    older: tuple[Blessing, ...] = ()
    if (folder / GOLDEN_FILE).is_file():
        older = _record(folder / GOLDEN_FILE).history
        if moved and not drop_previous:
            _checked(folder, run.case_id)  # what is kept must be whole
    new = Path(tempfile.mkdtemp(dir=folder, prefix=f".{RUN_FOLDER}."))
    try:
        whole = _thinned(run, new, older) if run.reduced else _kept(run, new, store, reduced)
        document = msgspec.to_builtins(run.record)
        document["files"] = {path.name: sha256_of(path) for path in sorted(new.iterdir())}
        write_json_atomic(new / RUN_FILE, document)
        for path in (new, *new.iterdir()):
            path.chmod(0o755 if path.is_dir() else 0o644)
        read_run(new)
        blessing = Blessing(
            reason=reason.strip(),
            blessed_utc=datetime.now(UTC).isoformat(timespec="seconds"),
            run_sha256=sha256_of(new / RUN_FILE),
            source_sha256=older[-1].source_sha256 if run.reduced else sha256_of(run.folder / RUN_FILE),
            whole=whole,
            moved_from=before.reference if moved and older else "",
        )
        record = GoldenRecord(
            schema_version=SCHEMA_VERSION,
            case_sha256=hashlib.sha256(text.encode()).hexdigest() if moved else sha256_of(folder / CASE_FILE),
            history=(*older, blessing),
        )
        if moved and older and not drop_previous:
            _keep(folder, before.reference)
        # From here until golden.json names the new run, the golden fits nothing and is refused, never half believed;
        # `undo_interrupted` puts back what stood there.
        if moved:
            shutil.copyfile(folder / CASE_FILE, folder / OLD_CASE)
        if (folder / RUN_FOLDER).exists():
            (folder / RUN_FOLDER).rename(folder / OLD_RUN)
        new.rename(folder / RUN_FOLDER)
        if moved:
            write_bytes_atomic(folder / CASE_FILE, text.encode())
        write_json_atomic(folder / GOLDEN_FILE, msgspec.to_builtins(record))
        if moved:
            shutil.rmtree(folder / NUMBERS_FOLDER, ignore_errors=True)  # they were measured against what is no more
        if drop_previous:
            shutil.rmtree(folder / PREVIOUS_FOLDER, ignore_errors=True)
    finally:
        undo_interrupted(run.case_id)
    return folder


def undo_interrupted(case_id: str) -> None:
    """Leave a case's folder as its `golden.json` has it, after a blessing that was stopped or killed half-way.

    Until `golden.json` names the new run, what stood there before is put back; from then on, it is cleared away.
    """
    folder = _folder_of(case_id)
    old_run, old_case, run = folder / OLD_RUN, folder / OLD_CASE, folder / RUN_FOLDER
    if (folder / GOLDEN_FILE).is_file():
        record = _record(folder / GOLDEN_FILE)
        if _is_run(old_run, record) and not _is_run(run, record):
            shutil.rmtree(run, ignore_errors=True)
            old_run.rename(run)
        if old_case.is_file() and sha256_of(old_case) == record.case_sha256:
            old_case.replace(folder / CASE_FILE)
        if _is_run(run, record):  # a release is kept only while it is not the golden itself
            shutil.rmtree(folder / PREVIOUS_FOLDER / read_run(run).record.reference, ignore_errors=True)
    left = (f".{RUN_FOLDER}.*", f".{CASE_FILE}.*", f".{GOLDEN_FILE}.*", f"{PREVIOUS_FOLDER}/.*")
    for path in (found for pattern in left for found in folder.glob(pattern)):
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def _is_run(folder: Path, record: GoldenRecord) -> bool:
    return (folder / RUN_FILE).is_file() and sha256_of(folder / RUN_FILE) == record.history[-1].run_sha256


def require_blessable(run: Run, reason: str, reference: str | None = None) -> str:
    """Refuse what `bless` would; returns the text of the case file as it will be. Raises: RunError, CaseError."""
    if not reason.strip():
        raise RunError("A golden needs a reason; say with --reason why this run is the ground truth now.")
    if run.record.runner != "official":
        raise RunError(f"{run.folder} is a run of {run.record.runner!r}; only an official run becomes ground truth.")
    path = _folder_of(run.case_id) / CASE_FILE
    now = load_case(path).reference
    text = case_text_at(path, reference or now)
    if case_document(parse_case(text, path.parent)) != run.record.case:
        raise RunError(
            f"{run.folder} is not a run of {path} at release {reference or now} (it follows {run.record.reference}); "
            "run that file, unchanged, or say with --reference to which release the case moves."
        )
    for name, wanted in run.record.inputs.items():
        if sha256_of(path.parent / name) != wanted:
            raise RunError(f"{path.parent / name} is not the picture that {run.folder} was run with; run it again.")
    return text


def case_text_at(path: Path, release: str) -> str:
    """The text of a case file, following a release. Raises: CaseError if its `reference` line cannot be set alone."""
    case, text = load_case(path), path.read_text(encoding="utf-8")
    if case.reference == release:
        return text
    head, table, rest = text.partition("\n[")
    line = f'reference = "{release}"'
    set_in_place, count = re.subn(r"(?m)^reference\s*=[^#\n]*?(?=\s*(#|$))", line, head)
    moved = (set_in_place if count else f"{head.rstrip()}\n{line}\n") + table + rest
    if parse_case(moved, path.parent) != msgspec.structs.replace(case, reference=release):
        raise CaseError(f"The release of {path} cannot be changed by its `reference` line alone; write it as a line.")
    return moved


def stays_whole(run: Run, reduced: bool) -> bool:
    """True if the golden that `bless` makes of a whole run holds all of it."""
    return not reduced and sum((run.folder / name).stat().st_size for name in _kept_files(run)) <= LARGEST_WHOLE_BYTES


def _kept_files(run: Run) -> list[str]:
    return [name for name in KEPT_FILES if run.has(name)]


def _keep(folder: Path, release: str) -> None:
    """Copy the golden of a case to where goldens of earlier releases lie."""
    previous = folder / PREVIOUS_FOLDER / release
    previous.parent.mkdir(exist_ok=True)
    copy = Path(tempfile.mkdtemp(dir=previous.parent, prefix=f".{release}."))
    copy.chmod(0o755)
    for name in (CASE_FILE, GOLDEN_FILE):
        shutil.copyfile(folder / name, copy / name)
    for name in (RUN_FOLDER, NUMBERS_FOLDER):
        if (folder / name).exists():
            shutil.copytree(folder / name, copy / name)
    shutil.rmtree(previous, ignore_errors=True)
    copy.rename(previous)


def _kept(run: Run, folder: Path, store: Store | None, reduced: bool) -> dict[str, StoreEntry]:
    """Put into `folder` what the repository keeps of a run, and into the store the rest; says what lies there."""
    if stays_whole(run, reduced):
        for name in _kept_files(run):
            shutil.copyfile(run.folder / name, folder / name)
        return {}
    if run.has(TRACE_FILE):
        write_reduced_trace(run.folder, folder, len(run.record.step_s), run.record.num_blocks)
    write_reduced(folder, reduce_outputs(run.outputs()))
    store = store or open_store()
    return {name: store.put(run.folder / name) for name in (RUN_FILE, *run.record.files)}


def _thinned(run: Run, folder: Path, history: tuple[Blessing, ...]) -> dict[str, StoreEntry]:
    """Put into `folder` what would be kept of a golden today; says what lies in the store, which is as it was."""
    if not history or sha256_of(run.folder / RUN_FILE) != history[-1].run_sha256:
        raise RunError(
            f"{run.folder} holds reduced outputs and is not the golden of {run.case_id!r}; bless the whole run, or the "
            "golden itself to keep less of it."
        )
    for name in (REDUCED_FILE, *KEY_FRAME_FILES):
        shutil.copyfile(run.folder / name, folder / name)
    if run.has(TRACE_FILE):
        write_reduced_trace(run.folder, folder, len(run.record.step_s), run.record.num_blocks)
    return history[-1].whole


def _record(path: Path) -> GoldenRecord:
    record = load(path, GoldenRecord, RunError, "restore the golden, or bless a run", version=SCHEMA_VERSION)
    if not record.history:
        raise RunError(f"{path} holds no blessing; restore the golden, or bless a run.")
    return record
