"""The one writer of files and folders: a temporary name first, then one rename, so that nobody ever reads half of one.

A file takes the place of nothing, or of a regular file; never of a device, a pipe or a link, which may be anybody's and
lead anywhere. It keeps the permissions of the file it replaces, and a new one has those that the umask leaves. A folder
takes the place of nothing, of an empty one, or of one of ours if that is asked for.

Folders above a place to write may be links where they are how a user's disks are laid out: a home, a scratch disk. Two
things are stricter. A file that is named on a command line (`require_named_target`) is not written behind a link, so
that no folder from elsewhere can lead it astray; and inside a folder of ours (`own_folder`) nothing is a link.
"""

import contextlib
import fcntl
import json
import math
import os
import stat
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from runners.errors import OutputError
from runners.partial_folder import new_file_mode, partial_folder, partial_place, take_place

IsOurs = Callable[[Path], bool]


def require_target(path: Path) -> None:
    """Refuse a place where no file of ours may be written. Raises: OutputError."""
    try:
        found = path.lstat()
    except FileNotFoundError:
        return
    except (OSError, ValueError) as error:  # a file in a folder's place, a name too long or with a zero byte
        raise OutputError(f"{path} cannot be written ({getattr(error, 'strerror', None) or error}).") from error
    if stat.S_ISLNK(found.st_mode):
        raise OutputError(f"{path} is a symbolic link; name the file itself, or another one.")
    if not stat.S_ISREG(found.st_mode):
        raise OutputError(f"{path} is there and is no regular file, so nothing is written over it; name another one.")
    if not os.access(path, os.W_OK):
        raise OutputError(f"{path} is write-protected; name another file, or allow writing.")


def require_named_target(path: Path | None) -> None:
    """Refuse a file named on a command line whose place is none of ours to write, or lies behind a link.

    Links that a system is made of are followed: those directly below `/` (`/tmp` of macOS) and on the way to the
    working, home and temporary folders. None, where no file is named, is good. Raises: OutputError.
    """
    if path is None:
        return
    require_target(path)
    for folder in path.absolute().parents:
        if folder.is_symlink() and not _of_the_system(folder):
            raise OutputError(f"{path} lies behind the symbolic link {folder}; name the folder that it leads to.")


def _of_the_system(link: Path) -> bool:
    ways = (os.environ.get("PWD", "/"), os.environ.get("HOME", "/"), tempfile.gettempdir())
    return link.parent == Path(link.anchor) or any(Path(way).is_relative_to(link) for way in ways)


def own_folder(folder: Path, *inside: str) -> Path:
    """A path inside a folder of ours, in which no part may be a link. Raises: OutputError."""
    path = folder
    for name in inside:
        path = path / name
        if path.is_symlink():
            raise OutputError(f"{path} is a symbolic link inside {folder}, where only plain files and folders belong.")
    return path


@contextlib.contextmanager
def file_atomic(path: Path) -> Iterator[Path]:
    """A free path for a file that takes the name `path` when the block ends without an error, and vanishes otherwise.

    Raises: OutputError if `path` is no place to write.
    """
    require_target(path)
    with partial_place(path) as new:
        yield new
        with new.open("rb") as file:
            os.fsync(file.fileno())
        require_target(path)
        mode = new_file_mode(new)
        if path.exists():
            replaced = path.stat()
            mode = stat.S_IMODE(replaced.st_mode)
            with contextlib.suppress(OSError):  # as root, or within one's own groups
                os.chown(new, replaced.st_uid, replaced.st_gid)
        new.chmod(mode)
        new.replace(path)


def write_bytes_atomic(path: Path, data: bytes) -> None:
    """Write a whole file or nothing. Raises: OutputError."""
    with file_atomic(path) as new:
        new.write_bytes(data)


def append_text(path: Path, text: str) -> None:
    """Add to the end of a text file that others write, too, or begin it. Raises: OutputError."""
    require_target(path)
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK
    with os.fdopen(os.open(path, flags, 0o666), "a", encoding="utf-8") as file:
        file.write(text)


def plain(value: Any) -> Any:
    """JSON has no infinities or NaN: they become the strings "inf", "-inf" and "nan", also inside lists and tables."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value


def write_json_atomic(path: Path, value: Any) -> None:
    """Write indented JSON with a closing newline, whole or not at all. Raises: OutputError."""
    text = json.dumps(plain(value), indent=2, allow_nan=False, ensure_ascii=False)
    write_bytes_atomic(path, text.encode() + b"\n")


@contextlib.contextmanager
def changing(path: Path) -> Iterator[None]:
    """Read a file, change it and write it again while every other process that would do so waits.

    Raises: OutputError if the lock beside it is none.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    place = path.parent / f".{path.name}.lock"  # the file itself is replaced, a lock on it lost
    require_target(place)
    with os.fdopen(os.open(place, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666), "r+b") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def require_folder(folder: Path, is_ours: IsOurs, *, replace: bool) -> None:
    """Refuse a place where no folder of ours may be written. Arguments and errors as `folder_atomic`."""
    try:
        found = folder.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return
    except ValueError as error:  # a zero byte
        raise OutputError(f"{str(folder)!r} cannot be a folder ({error}); choose another --out.") from error
    if stat.S_ISLNK(found.st_mode):
        raise OutputError(f"{folder} is a symbolic link; name the folder that it leads to, or another --out.")
    if not stat.S_ISDIR(found.st_mode):
        raise OutputError(f"{folder} exists and is no folder; choose another --out.")
    if not any(folder.iterdir()):
        return
    if not is_ours(folder):
        raise OutputError(f"{folder} exists and is not one of ours, so it is not replaced; choose another --out.")
    if not replace:
        raise OutputError(f"{folder} is finished already; say --replace to replace it, or choose another --out.")


@contextlib.contextmanager
def folder_atomic(folder: Path, is_ours: IsOurs, *, replace: bool) -> Iterator[Path]:
    """A temporary folder that takes the name `folder` when the block ends without an error, and vanishes otherwise.

    Args:
        folder: to write. One that is there and not empty is replaced only if it is ours and that is asked for, so that
            neither a mistyped path nor a repeated command deletes somebody's work.
        is_ours: says of a folder by what lies in it that this program made it.
        replace: replace one of ours.
    Raises: OutputError before the block is entered if the place is not free.
    """
    with partial_folder(folder) as new:
        require_folder(folder, is_ours, replace=replace)
        yield new
        require_folder(folder, is_ours, replace=replace)  # what came there meanwhile
        take_place(new, folder)
