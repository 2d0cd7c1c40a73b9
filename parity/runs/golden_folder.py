"""The folder of a case under `golden/`: its manifest, and what of it a blessing may replace and remove.

Its parts have fixed names, and earlier goldens those of releases (`runners.releases.REFERENCES`). None may be a link,
so nothing that is written or removed here can lie elsewhere. What is removed says itself what it is: a run of this case
in its `run.json`, a golden in its `golden.json`, a half-written part in its mark (`runners.partial_folder`).
"""

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

import msgspec

from parity.runs.folder import RUN_FILE, case_id_in, read_run
from parity.runs.places import CASE_FILE as CASE_FILE
from parity.runs.store import StoreEntry
from parity.trace.atomic import folder_atomic, own_folder
from runners.case import load_case
from runners.errors import CaseError, RunError
from runners.files import sha256_of
from runners.load import load
from runners.partial_folder import clear_partial, remove_folder
from runners.releases import REFERENCES

GOLDEN_FILE: Final = "golden.json"
RUN_FOLDER: Final = "run"
NUMBERS_FOLDER: Final = "numbers"
PREVIOUS_FOLDER: Final = "previous"
OLD_RUN, OLD_CASE = f".{RUN_FOLDER}.old", f".{CASE_FILE}.old"  # while a blessing replaces them
SCHEMA_VERSION: Final = 1
_PARTS: Final = (CASE_FILE, GOLDEN_FILE, RUN_FOLDER, NUMBERS_FOLDER, PREVIOUS_FOLDER, OLD_RUN, OLD_CASE)


class Blessing(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The manifest of a run that became ground truth: the reason and the date."""

    reason: str
    blessed_utc: str
    run_sha256: str  # of run.json, which holds the hashes of everything else
    source_sha256: str = ""  # of the run.json it was made from, which names more files and is what numbers refer to
    whole: dict[str, StoreEntry] = {}  # file name to what the store holds, run.json too; empty if nothing was reduced
    moved_from: str = ""  # release that was the truth until then, if that changed


class GoldenManifest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The contents of `golden.json`, the newest blessing last."""

    schema_version: int
    case_sha256: str
    history: tuple[Blessing, ...]


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Change a case's folder while nobody else does, where its file system has locks. Raises: RunError if one does."""
    require_own(folder)
    holder = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        try:
            fcntl.flock(holder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise RunError(
                f"Another call is blessing a run of {folder.name!r}; do it again when that has ended."
            ) from error
        except OSError:  # no locks here
            pass
        yield
    finally:
        os.close(holder)


def read_manifest(path: Path) -> GoldenManifest:
    """A `golden.json`. Raises: RunError."""
    manifest = load(path, GoldenManifest, RunError, "restore the golden, or bless a run", version=SCHEMA_VERSION)
    if not manifest.history:
        raise RunError(f"{path} holds no blessing; restore the golden, or bless a run.")
    return manifest


def require_own(folder: Path) -> None:
    """Refuse a case's folder in which something is not what a blessing may replace; changes nothing.

    Raises: OutputError for a link; RunError for a `run` that is no run of this case.
    """
    own_folder(folder.parent, folder.name)
    for name in _PARTS:
        own_folder(folder, name)
    for release in REFERENCES:
        own_folder(folder, PREVIOUS_FOLDER, release)
    for name in (RUN_FOLDER, OLD_RUN):
        run = folder / name
        if run.exists() and case_id_in(run) != folder.name:
            raise RunError(f"{run} is no run of {folder.name!r} by its {RUN_FILE}; move it away, then bless again.")


def case_file_of(folder: Path) -> Path:
    """The case file that holds once what an interrupted blessing has left is undone. Raises: RunError."""
    old = folder / OLD_CASE
    blessed = old.is_file() and (folder / GOLDEN_FILE).is_file()
    is_blessed = blessed and sha256_of(old) == read_manifest(folder / GOLDEN_FILE).case_sha256
    return old if is_blessed else folder / CASE_FILE


def undo_interrupted(folder: Path) -> None:
    """Leave a case's folder as its `golden.json` has it, after a blessing that was stopped or killed half-way.

    Until `golden.json` names the new run, what stood there before is put back; from then on, it is cleared away.
    Raises: as `require_own`, before anything is changed.
    """
    require_own(folder)
    old_run, old_case, run = folder / OLD_RUN, folder / OLD_CASE, folder / RUN_FOLDER
    if (folder / GOLDEN_FILE).is_file():
        manifest = read_manifest(folder / GOLDEN_FILE)
        if _is_run(old_run, manifest) and not _is_run(run, manifest):
            remove_folder(run)
            old_run.rename(run)
        if case_file_of(folder) == old_case:
            old_case.replace(folder / CASE_FILE)
        if _is_run(run, manifest):  # a release is kept only while it is not the golden itself
            remove_previous(folder, read_run(run).manifest.reference)
    remove_folder(old_run)
    if _is_case(old_case, folder.name):
        old_case.unlink()
    for name in (RUN_FOLDER, OLD_RUN, CASE_FILE, OLD_CASE, GOLDEN_FILE):
        clear_partial(folder / name)
    if (folder / PREVIOUS_FOLDER).is_dir():
        for release in REFERENCES:
            clear_partial(folder / PREVIOUS_FOLDER / release)


def _is_run(folder: Path, manifest: GoldenManifest) -> bool:
    return (folder / RUN_FILE).is_file() and sha256_of(folder / RUN_FILE) == manifest.history[-1].run_sha256


def _is_case(path: Path, case_id: str) -> bool:
    try:
        return path.is_file() and load_case(path).id == case_id
    except CaseError:
        return False


def keep_previous(folder: Path, release: str) -> None:
    """Copy the golden of a case to where goldens of earlier releases lie. Raises: OutputError if that is not free."""
    with folder_atomic(own_folder(folder, PREVIOUS_FOLDER, release), _holds_golden, replace=True) as copy:
        for name in (CASE_FILE, GOLDEN_FILE):
            shutil.copyfile(folder / name, copy / name)
        for name in (RUN_FOLDER, NUMBERS_FOLDER):
            if (folder / name).exists():
                shutil.copytree(folder / name, copy / name, symlinks=True)


def remove_previous(folder: Path, release: str) -> None:
    """Let go of the golden that a case keeps of an earlier release; what is none stays."""
    kept = own_folder(folder, PREVIOUS_FOLDER, release)
    if release in REFERENCES and _holds_golden(kept):
        remove_folder(kept)
    with suppress(OSError):  # absent, or others are in it
        kept.parent.rmdir()


def remove_numbers(folder: Path) -> None:
    """Remove saved numbers of a case: they were measured against what is no more."""
    numbers = own_folder(folder, NUMBERS_FOLDER)
    for path in numbers.glob("*.json"):
        if path.is_file() and not path.is_symlink():
            path.unlink()
    with suppress(OSError):  # absent, or something else is in it
        numbers.rmdir()


def _holds_golden(folder: Path) -> bool:
    path = folder / GOLDEN_FILE
    try:
        return not path.is_symlink() and bool(read_manifest(path))
    except RunError:
        return False
