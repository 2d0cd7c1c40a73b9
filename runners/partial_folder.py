"""Something new beside the path that it will take: made in a hidden folder; the next one clears what a kill left."""

import fcntl
import os
import re
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

_NEW: Final = "new"  # what will take the place
_OLD: Final = "old"  # what had it until then
MARKER: Final = "parity.partial"  # nothing without this file in it is ever cleared
_SAYS: Final = "Half-written by `parity`; the next call that writes there removes this folder unless it is in use.\n"


@contextmanager
def partial_place(target: Path) -> Iterator[Path]:
    """A free path inside a new folder `.NAME.partial-…` beside `target`; that folder is gone when the block ends.

    A process that is killed, as by the kernel when memory runs out, leaves it. So it is locked for as long as its
    process lives, and whoever writes towards the same `target` next removes those that nobody holds and that say whose
    they are; what such a process had moved out of the way is put back, if nothing had taken its place. Where a file
    system has no locks on folders nothing is removed. Several hosts that write towards one place need a file system
    whose locks all of them see.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    clear_partial(target)
    work, holder = _made_and_held(target)
    try:
        (work / MARKER).write_text(_SAYS, encoding="utf-8")
        yield work / _NEW
    finally:
        _discard(work, target)
        os.close(holder)


@contextmanager
def partial_folder(folder: Path) -> Iterator[Path]:
    """An empty folder in a partial place of `folder`, gone when the block ends unless it took that place."""
    with partial_place(folder) as new:
        new.mkdir()
        yield new


def new_file_mode(new: Path) -> int:
    """The permissions that a file made in a partial place gets here and now: those that the umask leaves."""
    return stat.S_IMODE((new.parent / MARKER).stat().st_mode)


def take_place(new: Path, folder: Path) -> None:
    """Give a partial folder its name and the permissions of the one that had it, which goes when the block ends."""
    if folder.exists():
        new.chmod(stat.S_IMODE(folder.stat().st_mode))
        folder.rename(new.with_name(_OLD))
    new.rename(folder)


def remove_folder(folder: Path) -> None:
    """Remove a folder; a process that is killed on the way leaves no half of it under its name."""
    if folder.exists():
        with partial_place(folder) as gone:
            folder.rename(gone)


def clear_partial(target: Path) -> None:
    """Remove what killed processes left of `target`."""
    ours = re.compile(re.escape(f".{target.name}.partial-") + "[a-z0-9_]{8}")  # as `tempfile` names them
    try:
        beside = list(target.parent.iterdir())
    except PermissionError:  # a folder that one may write into and not read
        return
    for path in (found for found in beside if ours.fullmatch(found.name)):
        with suppress(OSError):  # somebody holds it, or has removed it just now
            holder = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            try:
                fcntl.flock(holder, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if stat.S_ISREG((path / MARKER).lstat().st_mode):
                    _discard(path, target)
            except FileNotFoundError:  # killed before it was marked, so there is nothing in it; or it is not ours
                path.rmdir()
            finally:
                os.close(holder)


def _discard(work: Path, target: Path) -> None:
    """Remove a folder of ours; what had been moved out of the way goes back if nothing has taken its place."""
    old = work / _OLD
    if os.path.lexists(old) and os.path.lexists(work / _NEW) and not os.path.lexists(target):
        old.rename(target)
    # The mark goes last: a process that is killed while it clears leaves what the next one still knows for its own.
    with suppress(OSError):
        for path in work.iterdir():
            if path.name != MARKER:
                _removed(path)
    shutil.rmtree(work, ignore_errors=True)


def _removed(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink()


def _made_and_held(target: Path) -> tuple[Path, int]:
    while True:
        work = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}.partial-"))
        try:
            holder = os.open(work, os.O_RDONLY)
        except FileNotFoundError:  # somebody cleared it already
            continue
        with suppress(OSError):  # no locks here
            fcntl.flock(holder, fcntl.LOCK_EX)
        if work.is_dir():  # else somebody cleared it before it was held
            return work, holder
        os.close(holder)
