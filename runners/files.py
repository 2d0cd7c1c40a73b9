"""The one way to a file that may come from a stranger: opened once, a regular file, no larger than it may be.

What waits or never ends (a pipe, a device) is refused, and so is a file that is larger than whoever reads it says an
honest one can be: before a byte of it is read. Size and kind are asked of the open file, so nothing can be put in its
place in between.
"""

import hashlib
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path
from typing import Any, Final

from runners.errors import ParityError, RunError

MAX_BYTES: Final = 128 << 20  # of a file whose reader knows no better: a picture, a document
MAX_HEADER_BYTES: Final = 16 << 20  # of a safetensors file; a checkpoint of 22 billion parameters has 1 MB
_WITHOUT_WAITING: Final = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK  # a pipe nobody writes to would wait for somebody
_PREFIX: Final = 8  # bytes that hold the length of such a header


@contextmanager
def opened(
    path: Path, error: type[ParityError] = RunError, remedy: str = "restore it", *, max_bytes: int = MAX_BYTES
) -> Iterator[BufferedReader]:
    """A file, open for reading.

    Args:
        path: of the file.
        error: kind of error to raise.
        remedy: what to do about a file that is refused, as the end of a sentence.
        max_bytes: the largest size that an honest file has.
    Raises: `error` for what is missing, not to be read, not a regular file, or larger.
    """
    try:
        handle = os.open(path, _WITHOUT_WAITING)
    except (OSError, ValueError) as problem:  # a ValueError for a name with a zero byte
        why = getattr(problem, "strerror", None) or problem
        raise error(f"{path} is no file that can be read ({why}); {remedy}.") from problem
    found = os.fstat(handle)
    if not stat.S_ISREG(found.st_mode):
        os.close(handle)
        raise error(f"{path} is not a regular file; {remedy}.")
    with os.fdopen(handle, "rb") as file:
        if found.st_size > max_bytes:
            raise error(f"{path} has more than {max_bytes} bytes; {remedy}.")
        yield file


def read_bytes(
    path: Path, error: type[ParityError] = RunError, remedy: str = "restore it", *, max_bytes: int = MAX_BYTES
) -> bytes:
    """All of a file. Arguments and errors as `opened` has them."""
    with opened(path, error, remedy, max_bytes=max_bytes) as file:
        try:
            data = file.read(max_bytes + 1)
        except OSError as problem:
            raise error(f"{path} is no file that can be read ({problem.strerror}); {remedy}.") from problem
    if len(data) > max_bytes:  # it grew meanwhile
        raise error(f"{path} has more than {max_bytes} bytes; {remedy}.")
    return data


def sha256_of(
    path: Path, error: type[ParityError] = RunError, remedy: str = "restore it", *, max_bytes: int = MAX_BYTES
) -> str:
    """SHA-256 of a file, hex, read in pieces. Arguments and errors as `opened` has them."""
    with opened(path, error, remedy, max_bytes=max_bytes) as file:
        try:
            return hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as problem:
            raise error(f"{path} is no file that can be read ({problem.strerror}); {remedy}.") from problem


@contextmanager
def opened_tensors(
    path: Path,
    error: type[ParityError] = RunError,
    remedy: str = "restore it",
    *,
    max_bytes: int | None = None,
    device: str = "cpu",
) -> Iterator[Any]:
    """A safetensors file, as `safetensors.safe_open` gives it, after its header was held to the file's size.

    Args:
        path: of the file.
        error: kind of error to raise.
        remedy: what to do about a file that is refused, as the end of a sentence.
        max_bytes: the largest size that an honest file has; None for weights, whose size nothing bounds.
        device: where tensors are read to.
    Raises: `error` as `opened`, and for a header that claims more than there is or a file that is not of that form, now
        or while tensors are read.
    """
    from safetensors import SafetensorError, safe_open

    with opened(path, error, remedy, max_bytes=1 << 62 if max_bytes is None else max_bytes) as file:
        size, prefix = os.fstat(file.fileno()).st_size, file.read(_PREFIX)
        length = int.from_bytes(prefix, "little") if len(prefix) == _PREFIX else 0
        if not 2 <= length <= min(size - _PREFIX, MAX_HEADER_BYTES):
            raise error(
                f"{path} is not a whole safetensors file: header of {length} bytes in a file of {size}; {remedy}."
            )
        try:
            # The very file that was checked, whatever has its name by now.
            with safe_open(f"/dev/fd/{file.fileno()}", framework="pt", device=device) as tensors:
                yield tensors
        except (SafetensorError, OSError) as problem:
            raise error(f"{path} is not a whole safetensors file ({problem}); {remedy}.") from problem
