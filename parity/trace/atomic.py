"""Writing so that a reader never sees half a file or half a folder: a temporary name first, then one rename."""

import contextlib
import fcntl
import json
import math
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from runners.errors import RunError
from runners.partial_folder import partial_folder, take_place


def write_bytes_atomic(path: Path, data: bytes) -> None:
    """Write a whole file or nothing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        Path(name).chmod(0o644)
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


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
    """Write indented JSON with a closing newline, whole or not at all."""
    text = json.dumps(plain(value), indent=2, allow_nan=False, ensure_ascii=False)
    write_bytes_atomic(path, text.encode() + b"\n")


@contextlib.contextmanager
def changing(path: Path) -> Iterator[None]:
    """Read a file, change it and write it again while every other process that would do so waits."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with (path.parent / f".{path.name}.lock").open("w") as lock:  # the file itself is replaced, a lock on it lost
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@contextlib.contextmanager
def folder_atomic(folder: Path, marker: str) -> Iterator[Path]:
    """A temporary folder that takes the name `folder` when the block ends without an error, and vanishes otherwise.

    An older folder of that name is replaced only if it is empty or holds the file `marker`, so that a mistyped path
    never deletes somebody's work. Raises: RunError.
    """
    with partial_folder(folder) as new:
        if folder.exists() and (not folder.is_dir() or (any(folder.iterdir()) and not (folder / marker).is_file())):
            raise RunError(f"{folder} exists and is not one of ours (no {marker} in it); choose another --out.")
        yield new
        take_place(new, folder)
