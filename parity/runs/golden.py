"""Goldens: recorded official runs, one folder a case under `golden/`, changed by `parity bless` alone.

`golden/<case id>/` holds `case.toml`, pictures of its own, `golden.json` (reason, date, hashes, and what stood there
before) and `run/`, the official run as it was recorded. A case without a golden yet is the same folder without the last
two. `golden/pictures/` holds pictures that cases share. Of a run too large for a repository, `run/` holds a reduced
copy (`parity.runs.reduced`); the whole one goes to the store (`parity.runs.store`), and `golden.json` names the hashes
of its files.

A case that moved to another release keeps what held before in `previous/<release>/`: case file, `golden.json`, `run/`
and saved numbers, as they were; the pictures are the case's. `golden@<release>` names it.
"""

import hashlib
import os
import re
import shutil
import stat
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec

from parity.runs import golden_folder
from parity.runs.folder import (
    DATA_FILES,
    KEY_FRAME_FILES,
    OUTPUTS_FILE,
    REDUCED_FILE,
    RUN_FILE,
    TRACE_FILE,
    Run,
    holds_run,
    read_run,
)
from parity.runs.golden_folder import (
    CASE_FILE,
    OLD_CASE,
    OLD_RUN,
    PREVIOUS_FOLDER,
    RUN_FOLDER,
    SCHEMA_VERSION,
    Blessing,
    GoldenManifest,
    alone_in,
    keep_previous,
    read_manifest,
    remove_numbers,
    remove_previous,
)
from parity.runs.golden_folder import GOLDEN_FILE as GOLDEN_FILE
from parity.runs.golden_folder import NUMBERS_FOLDER as NUMBERS_FOLDER
from parity.runs.places import case_file, case_folder, case_folders, own_case_folder, project_root
from parity.runs.reduced import reduce_outputs, write_reduced, write_reduced_trace
from parity.runs.store import Store, StoreEntry, open_store
from parity.trace.atomic import folder_atomic, write_bytes_atomic, write_json_atomic
from runners.case import CASE_ID, MAX_CASE_BYTES, Case, case_document, load_case, parse_case
from runners.errors import CaseError, RunError
from runners.files import read_bytes, sha256_of
from runners.load import read_text
from runners.partial_folder import partial_folder
from runners.pictures import picture_file
from runners.releases import REFERENCES, RELEASES

GOLDEN, WHOLE_GOLDEN = "golden", "whole-golden"  # names of references on the command line
KEPT_FILES = (OUTPUTS_FILE, TRACE_FILE)  # of a run; the clip and whole taps stay where they are
LARGEST_WHOLE_BYTES = 8 << 20  # of those files together; a larger golden is reduced


def find_case(case: str, overrides: dict[str, Any] | None = None) -> Case:
    """A case by its id under golden/ or by the path of its file. Raises: CaseError."""
    return load_case(case_file(case), overrides)


def golden_of(case_id: str, release: str | None = None) -> Run:
    """The recorded official run of a case; that of an earlier release, if one is named.

    Raises: RunError if there is none, or it was changed without a blessing.
    """
    folder = _folder_of(case_id)
    if not has_golden(case_id):
        raise RunError(
            f"Case {case_id!r} has no golden in {folder}; record one with `parity bless RUN --reason TEXT`, or name a "
            "run as reference."
        )
    if release is None:
        return _checked(folder, case_id)
    now = _checked(folder, case_id)
    if now.manifest.reference == release:
        return now
    kept = releases_kept(case_id)
    if release not in kept:
        raise RunError(
            f"Case {case_id!r} has no golden of release {release!r}; it has "
            f"{', '.join((now.manifest.reference, *kept))}."
        )
    run = _checked(folder / PREVIOUS_FOLDER / release, case_id)
    if run.manifest.reference != release:
        raise RunError(f"{run.folder} follows release {run.manifest.reference}, not {release}; restore it.")
    return run


def has_golden(case_id: str) -> bool:
    """True if a case has a golden, be it good or not. Raises: RunError for what is no case id."""
    return os.path.lexists(_folder_of(case_id) / GOLDEN_FILE)


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

    for path in (path for folder in case_folders() for path in sorted(folder.glob(f"**/{GOLDEN_FILE}"))):
        old = read_run(path.parent / RUN_FOLDER).manifest
        new = run.manifest
        same = (old.inputs, old.weights_hash, old.loras) == (new.inputs, new.weights_hash, new.loras)
        if same and request(old.case) == request(run.manifest.case):
            yield _checked(path.parent, str(old.case["id"]))


def _folder_of(case_id: str) -> Path:
    if not re.fullmatch(CASE_ID, case_id):
        raise RunError(f"{case_id!r} is no case id, so it has no golden.")
    return case_folder(case_id)


def _own_folder_of(case_id: str) -> Path:
    _folder_of(case_id)  # which knows what is no id
    return own_case_folder(case_id)


def _checked(folder: Path, case_id: str) -> Run:
    """The golden in a folder, held to what `golden.json` there says."""
    pictures, manifest = _folder_of(case_id), read_manifest(folder / GOLDEN_FILE)
    if sha256_of(folder / CASE_FILE) != manifest.case_sha256:
        raise RunError(f"{folder / CASE_FILE} is not the case its golden was recorded for; bless a new run of it.")
    unchanged = f"The golden of {case_id!r} was changed without `parity bless`; restore it or bless a run."
    if not (folder / RUN_FOLDER / RUN_FILE).is_file():
        raise RunError(unchanged)
    run = read_run(folder / RUN_FOLDER)
    if run.sha256 != manifest.history[-1].run_sha256:
        raise RunError(unchanged)
    if run.case_id != case_id:
        raise RunError(f"The golden in {folder} is of case {run.case_id!r}; bless a run of {case_id!r}.")
    for name, wanted in run.manifest.inputs.items():
        picture = picture_file(pictures, name)
        if not picture.is_file() or sha256_of(picture) != wanted:
            raise RunError(f"{picture} is not the picture that the golden in {folder} was recorded with; restore it.")
    return run


def blessing_of(case_id: str) -> Blessing:
    """The manifest of how the golden of a case became what it is. Raises: RunError as `golden_of`."""
    golden_of(case_id)
    return read_manifest(_folder_of(case_id) / GOLDEN_FILE).history[-1]


def whole_golden_of(case_id: str, folder: Path, store: Store | None = None, *, replace: bool = False) -> Run:
    """The golden of a case with everything it had, brought from the store into `folder` where the golden is reduced.

    Another run that is there is replaced if that is asked for. Raises: RunError as `golden_of`, and if the store does
    not have it, or has something else under its name; OutputError for a folder that is not free.
    """
    golden, whole = golden_of(case_id), blessing_of(case_id).whole
    if not golden.reduced:
        return golden
    if not {RUN_FILE, OUTPUTS_FILE} <= whole.keys() <= {RUN_FILE, *DATA_FILES}:
        raise RunError(f"The golden of {case_id!r} names the files {sorted(whole)}; that is no run. Bless a run again.")
    if (folder / RUN_FILE).is_file() and sha256_of(folder / RUN_FILE) == whole[RUN_FILE].sha256:
        run = read_run(folder)  # brought before; its files are held to their hashes again
        if run.sha256 == whole[RUN_FILE].sha256:
            return run
    store = store or open_store()
    with folder_atomic(folder, holds_run, replace=replace) as partial:
        for name, stored in whole.items():
            store.get(stored, partial / name)
        run = read_run(partial)
        if run.case_id != case_id or run.manifest.weights_hash != golden.manifest.weights_hash:
            raise RunError(f"{store.url} has a run of {run.case_id!r} in place of {case_id!r}; bless a run again.")
    return run.moved_to(folder)


def names_golden(name: str) -> bool:
    """True for a name of a reference that is a recorded run of whatever case is at hand."""
    return name in (GOLDEN, WHOLE_GOLDEN) or name.startswith(f"{GOLDEN}@")


def reference_run(name: str, case_id: str) -> Run:
    """A run to compare with: `golden` for the recorded one, `golden@RELEASE` for that of an earlier release,
    `whole-golden` for that from the store, else a folder."""
    if name == GOLDEN:
        return golden_of(case_id)
    if name.startswith(f"{GOLDEN}@"):
        return golden_of(case_id, name.removeprefix(f"{GOLDEN}@"))
    if name == WHOLE_GOLDEN:
        return whole_golden_of(case_id, project_root() / "build" / "whole-golden" / case_id, replace=True)
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
    Raises: RunError if the run is not official, the case under golden/ is another one, the reason is empty, or somebody
        else blesses a run of it just now; OutputError for links in the case's folder.
    """
    text = require_blessable(run, reason, reference)
    folder = _own_folder_of(run.case_id)
    with alone_in(folder):
        golden_folder.undo_interrupted(folder)
        try:
            _replace_golden(run, reason, text, folder, store, reduced=reduced, drop_previous=drop_previous)
        finally:
            golden_folder.undo_interrupted(folder)
    return folder


def _replace_golden(
    run: Run, reason: str, text: str, folder: Path, store: Store | None, *, reduced: bool, drop_previous: bool
) -> None:
    """Put a run into the place of the golden in a folder, whose case file has that text from then on."""
    before = load_case(folder / CASE_FILE)
    moved = run.manifest.reference != before.reference
    older: tuple[Blessing, ...] = ()
    if has_golden(run.case_id):
        older = read_manifest(folder / GOLDEN_FILE).history
        if moved and not drop_previous:
            _checked(folder, run.case_id)  # what is kept must be whole
    with partial_folder(folder / RUN_FOLDER) as new:
        whole = _thinned(run, new, older) if run.reduced else _kept(run, new, store, reduced)
        document = msgspec.to_builtins(run.manifest)
        document["files"] = {path.name: sha256_of(path) for path in sorted(new.iterdir())}
        write_json_atomic(new / RUN_FILE, document)
        read_run(new)
        blessing = Blessing(
            reason=reason.strip(),
            blessed_utc=datetime.now(UTC).isoformat(timespec="seconds"),
            run_sha256=sha256_of(new / RUN_FILE),
            source_sha256=older[-1].source_sha256 if run.reduced else run.sha256,
            whole=whole,
            moved_from=before.reference if moved and older else "",
        )
        manifest = GoldenManifest(
            schema_version=SCHEMA_VERSION,
            case_sha256=hashlib.sha256(text.encode()).hexdigest(),
            history=(*older, blessing),
        )
        if moved and older and not drop_previous:
            keep_previous(folder, before.reference)
        # From here until golden.json names the new run, the golden fits nothing and is refused, never half
        # believed; `undo_interrupted` puts back what stood there.
        if moved:
            write_bytes_atomic(folder / OLD_CASE, read_bytes(folder / CASE_FILE, CaseError, max_bytes=MAX_CASE_BYTES))
        if (folder / RUN_FOLDER).exists():
            new.chmod(stat.S_IMODE((folder / RUN_FOLDER).stat().st_mode))
            (folder / RUN_FOLDER).rename(folder / OLD_RUN)
        new.rename(folder / RUN_FOLDER)
        if moved:
            write_bytes_atomic(folder / CASE_FILE, text.encode())
        write_json_atomic(folder / GOLDEN_FILE, msgspec.to_builtins(manifest))
        if moved:
            remove_numbers(folder)
        for release in REFERENCES if drop_previous else ():
            remove_previous(folder, release)


def undo_interrupted(case_id: str) -> None:
    """Leave a case's folder as its `golden.json` has it. Raises: RunError, OutputError."""
    folder = _own_folder_of(case_id)
    with alone_in(folder):
        golden_folder.undo_interrupted(folder)


def require_blessable(run: Run, reason: str, reference: str | None = None) -> str:
    """Refuse what `bless` would, and change nothing; returns the text of the case file as it will be.

    Raises: RunError, CaseError, OutputError.
    """
    if not reason.strip():
        raise RunError("A golden needs a reason; say with --reason why this run is the ground truth now.")
    if run.manifest.runner != "official":
        raise RunError(f"{run.folder} is a run of {run.manifest.runner!r}; only an official run becomes ground truth.")
    folder = _own_folder_of(run.case_id)
    golden_folder.require_own(folder)
    path = golden_folder.case_file_of(folder)
    now = load_case(path).reference
    text = case_text_at(path, reference or now)
    if case_document(parse_case(text, path.parent)) != run.manifest.case:
        raise RunError(
            f"{run.folder} is not a run of {folder / CASE_FILE} at release {reference or now} "
            f"(it follows {run.manifest.reference}); run that file, unchanged, or say with --reference which release "
            "the case moves to."
        )
    for name, wanted in run.manifest.inputs.items():
        picture = picture_file(path.parent, name)
        if sha256_of(picture) != wanted:
            raise RunError(f"{picture} is not the picture that {run.folder} was run with; run it again.")
    return text


def case_text_at(path: Path, release: str) -> str:
    """The text of a case file, following a release. Raises: CaseError if its `reference` line cannot be set alone."""
    case, text = load_case(path), read_text(path, CaseError, "restore it", max_bytes=MAX_CASE_BYTES)
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


def _kept(run: Run, folder: Path, store: Store | None, reduced: bool) -> dict[str, StoreEntry]:
    """Put into `folder` what the repository keeps of a run, and into the store the rest; says what lies there."""
    if stays_whole(run, reduced):
        for name in _kept_files(run):
            shutil.copyfile(run.file(name).address(), folder / name)
        return {}
    if run.has(TRACE_FILE):
        write_reduced_trace(run.trace, folder, run.case.plans, run.manifest.num_blocks)
    write_reduced(folder, reduce_outputs(run.outputs()))
    store = store or open_store()
    return {name: store.put(run.file(name)) for name in (RUN_FILE, *run.manifest.files)}


def _thinned(run: Run, folder: Path, history: tuple[Blessing, ...]) -> dict[str, StoreEntry]:
    """Put into `folder` what would be kept of a golden today; says what lies in the store, which is as it was."""
    if not history or run.sha256 != history[-1].run_sha256:
        raise RunError(
            f"{run.folder} holds reduced outputs and is not the golden of {run.case_id!r}; bless the whole run, or the "
            "golden itself to keep less of it."
        )
    for name in (REDUCED_FILE, *filter(run.has, KEY_FRAME_FILES)):
        shutil.copyfile(run.file(name).address(), folder / name)
    if run.has(TRACE_FILE):
        write_reduced_trace(run.trace, folder, run.case.plans, run.manifest.num_blocks, thin=True)
    return history[-1].whole
