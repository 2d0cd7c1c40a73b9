"""A hidden folder to work in beside the one that it will become; the next one clears what a killed process left."""

import fcntl
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

_NEW: Final = "new"  # what will be the folder
_OLD: Final = "old"  # what had its name until then


@contextmanager
def partial_folder(folder: Path) -> Iterator[Path]:
    """A new folder inside `.NAME.partial-…` beside `folder`, gone when the block ends, unless it took that place.

    A process that is killed, as by the kernel when memory runs out, leaves it. So it is locked for as long as its
    process lives, and whoever writes towards the same `folder` next removes those that nobody holds; what such a
    process had moved out of the way is put back, if nothing had taken its place. Where a file system has no locks on
    folders nothing is removed. Several hosts that write towards one folder need a file system whose locks all of them
    see.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    _clear(folder)
    work, holder = _made_and_held(folder)
    try:
        (work / _NEW).mkdir()
        yield work / _NEW
    finally:
        _discard(work, folder)
        os.close(holder)


def take_place(new: Path, folder: Path) -> None:
    """Give a partial folder its name. What had the name goes when the block of `partial_folder` ends."""
    if folder.exists():
        folder.rename(new.with_name(_OLD))
    new.rename(folder)


def _discard(work: Path, folder: Path) -> None:
    """Remove a folder of ours; what had been moved out of the way goes back if nothing has taken its place."""
    old = work / _OLD
    if os.path.lexists(old) and (work / _NEW).exists() and not os.path.lexists(folder):
        old.rename(folder)
    shutil.rmtree(work, ignore_errors=True)


def _made_and_held(folder: Path) -> tuple[Path, int]:
    while True:
        work = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}.partial-"))
        try:
            holder = os.open(work, os.O_RDONLY)
        except FileNotFoundError:  # somebody cleared it already
            continue
        with suppress(OSError):  # no locks here
            fcntl.flock(holder, fcntl.LOCK_EX)
        if work.is_dir():  # else somebody cleared it before it was held
            return work, holder
        os.close(holder)


def _clear(folder: Path) -> None:
    """Remove what killed processes left of `folder`."""
    ours = re.compile(re.escape(f".{folder.name}.partial-") + "[a-z0-9_]{8}")  # as `tempfile` names them
    for path in folder.parent.iterdir():
        if not ours.fullmatch(path.name):
            continue
        with suppress(OSError):  # somebody holds it, or has removed it just now
            holder = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            try:
                fcntl.flock(holder, fcntl.LOCK_EX | fcntl.LOCK_NB)
                _discard(path, folder)
            finally:
                os.close(holder)
