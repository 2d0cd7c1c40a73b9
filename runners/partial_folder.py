"""A hidden folder to work in beside the one that it will become; the next one clears what a killed process left."""

import fcntl
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

OLD = "old"  # in such a folder, what its process has moved out of the way


@contextmanager
def partial_folder(folder: Path) -> Iterator[Path]:
    """A new folder `.NAME.partial-…` beside `folder`, gone with all that it still holds when the block ends.

    A process that is killed, as by the kernel when memory runs out, leaves it. So it is locked for as long as its
    process lives, and whoever works towards the same `folder` next removes those that nobody holds. If `folder` had
    been moved to `OLD` inside, and nothing put in its place yet, it is put back. On a file system without locks on
    folders nothing is removed.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    _clear(folder)
    made, holder = _made_and_held(folder)
    try:
        yield made
    finally:
        shutil.rmtree(made, ignore_errors=True)
        os.close(holder)


def _made_and_held(folder: Path) -> tuple[Path, int]:
    while True:
        made = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}.partial-"))
        holder = os.open(made, os.O_RDONLY)
        with suppress(OSError):  # no locks here
            fcntl.flock(holder, fcntl.LOCK_EX)
        if made.is_dir():  # else somebody cleared it before it was held
            return made, holder
        os.close(holder)


def _clear(folder: Path) -> None:
    """Remove what killed processes left of `folder`, and put back what they had moved away."""
    ours = re.compile(re.escape(f".{folder.name}.partial-") + "[a-z0-9_]{8}")  # as `tempfile` names them
    for path in folder.parent.iterdir():
        if not ours.fullmatch(path.name):
            continue
        with suppress(OSError):  # somebody holds it, or has removed it just now
            holder = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            try:
                fcntl.flock(holder, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if not folder.exists() and (path / OLD).is_dir():
                    (path / OLD).rename(folder)
                shutil.rmtree(path, ignore_errors=True)
            finally:
                os.close(holder)
