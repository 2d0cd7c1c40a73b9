"""The one way to a file that may come from a stranger: opened once, a regular file, no larger than it may be.

What waits or never ends (a pipe, a device) is refused, and so is a file that is larger than whoever reads it says an
honest one can be: before a byte of it is read. Size and kind are asked of the open file, so nothing can be put in its
place in between. A file whose hash vouches for what is read later stays open in between: a `HeldFile`.
"""

import hashlib
import os
import stat
import weakref
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


class HeldFile:
    """A file that is opened once, when it is hashed: whatever is read of it later comes through the same descriptor.

    Whoever puts another file in its place meanwhile changes nothing. One that is written into is hashed again before it
    is read again. It is closed with the last reference to it.
    """

    def __init__(
        self, path: Path, error: type[ParityError] = RunError, remedy: str = "restore it", *, max_bytes: int = MAX_BYTES
    ) -> None:
        """Open and hash a file. Arguments and errors as `opened` has them."""
        self.path = path
        with opened(path, error, remedy, max_bytes=max_bytes) as file:
            self._state = _state(file.fileno())
            self.sha256 = _digest(file, path, error, remedy)
            self._descriptor = os.dup(file.fileno())
        weakref.finalize(self, os.close, self._descriptor)

    def __str__(self) -> str:
        """The path, for messages."""
        return str(self.path)

    @property
    def size(self) -> int:
        """Bytes that were hashed."""
        return self._state[0]

    def address(self) -> str:
        """Path of the open file itself, whatever has its name by now, for libraries that open by name.

        Raises: RunError if other bytes are in it by now.
        """
        os.close(self.reopen(RunError, "restore it"))
        return f"/dev/fd/{self._descriptor}"

    def is_same_file(self, other: "HeldFile") -> bool:
        """True if both are one file on disk, through a link or because they are one path."""
        return os.path.sameopenfile(self._descriptor, other._descriptor)

    def reopen(self, error: type[ParityError], remedy: str) -> int:
        """A descriptor of the same open file, at its beginning. Raises: `error` if other bytes are in it by now."""
        state = _state(self._descriptor)
        if state != self._state:
            with os.fdopen(os.dup(self._descriptor), "rb") as file:
                file.seek(0)
                if _digest(file, self.path, error, remedy) != self.sha256:
                    raise error(f"{self} was changed while it was read; {remedy}.")
            self._state = state
        handle = os.dup(self._descriptor)
        os.lseek(handle, 0, os.SEEK_SET)
        return handle


def _state(descriptor: int) -> tuple[int, int, int]:
    """Size and times of a file, which change where it is written to."""
    found = os.fstat(descriptor)
    return found.st_size, found.st_mtime_ns, found.st_ctime_ns


@contextmanager
def opened(
    path: Path | HeldFile,
    error: type[ParityError] = RunError,
    remedy: str = "restore it",
    *,
    max_bytes: int = MAX_BYTES,
) -> Iterator[BufferedReader]:
    """A file, open for reading.

    Args:
        path: of the file; or the file itself, if it is held open.
        error: kind of error to raise.
        remedy: what to do about a file that is refused, as the end of a sentence.
        max_bytes: the largest size that an honest file has.
    Raises: `error` for what is missing, not to be read, not a regular file, or larger.
    """
    try:
        handle = path.reopen(error, remedy) if isinstance(path, HeldFile) else os.open(path, _WITHOUT_WAITING)
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
    path: Path | HeldFile,
    error: type[ParityError] = RunError,
    remedy: str = "restore it",
    *,
    max_bytes: int = MAX_BYTES,
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
        return _digest(file, path, error, remedy)


def _digest(file: BufferedReader, path: Path, error: type[ParityError], remedy: str) -> str:
    try:
        return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as problem:
        raise error(f"{path} is no file that can be read ({problem.strerror}); {remedy}.") from problem


@contextmanager
def opened_tensors(
    path: Path | HeldFile,
    error: type[ParityError] = RunError,
    remedy: str = "restore it",
    *,
    max_bytes: int | None = None,
    device: str = "cpu",
) -> Iterator[Any]:
    """A safetensors file, as `safetensors.safe_open` gives it, after its header was held to the file's size.

    Args:
        path: of the file; or the file itself, if it is held open.
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
