"""The store of what is too large for the repository: files under their own SHA-256, in any place that fsspec can reach.

`PARITY_STORE` is a URL: a folder, `s3://bucket/prefix`, `hf://datasets/owner/name` and so on; without it, a folder in
the user's cache. A file lies at `<root>/<first two digits>/<sha256>`. Its name says what is in it, so nothing is ever
overwritten that has its name's content. What lies there is read before it is believed, also by who adds it again: a
store may be anybody's.

Beside the files lie records: small JSON texts under a name, at `<root>/records/<name>.json`, which say which files
belong together (an official run of one environment, the result of a row, the history of a matrix). A record is replaced
whole.
"""

import hashlib
import os
import re
import shutil
from pathlib import Path
from typing import BinaryIO, Final

import fsspec
import msgspec
from fsspec.implementations.local import LocalFileSystem

from parity.trace.atomic import file_atomic, own_folder, write_bytes_atomic
from runners.errors import OutputError, RunError
from runners.files import HeldFile

ENVIRONMENT_VARIABLE: Final = "PARITY_STORE"
MAX_FILE_BYTES: Final = 1 << 38
MAX_RECORD_BYTES: Final = 64 << 20
RECORDS: Final = "records"  # folder of a store beside those of files, which have two digits each
_RECORD_NAME: Final = re.compile(r"[a-z0-9][A-Za-z0-9_.-]{0,99}(/[A-Za-z0-9][A-Za-z0-9_.-]{0,99}){1,3}")
_CHUNK: Final = 1 << 22  # bytes copied at a time


class StoreEntry(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A file in a store, by its content."""

    sha256: str
    bytes: int

    def __post_init__(self) -> None:
        """Refuse what is no hash, since it becomes a path. Raises: ValueError."""
        if len(self.sha256) != 64 or set(self.sha256) - set("0123456789abcdef"):
            raise ValueError(f"{self.sha256!r} is no SHA-256")
        if not 0 <= self.bytes <= MAX_FILE_BYTES:
            raise ValueError(f"a file of {self.bytes} bytes; at most {MAX_FILE_BYTES} are stored")


class Store:
    """One store."""

    def __init__(self, url: str) -> None:
        """Open a store. Raises: RunError if the URL names nothing that fsspec reaches here."""
        self.url = url
        try:
            self._files, self._root = fsspec.url_to_fs(url)
        except Exception as error:  # every kind of store has errors of its own
            raise RunError(
                f"No store at {url!r} ({error}); set {ENVIRONMENT_VARIABLE} to a folder, or install what it needs."
            ) from error

    @property
    def absolute_url(self) -> str:
        """The URL by which a process that works in another folder opens the same store."""
        return self._root if isinstance(self._files, LocalFileSystem) else self.url

    def put(self, file: HeldFile) -> StoreEntry:
        """Add a file, unless its content is there already; what lies under its name is read before it is believed.

        Raises: RunError if the store does not take it; OutputError if a device or a link lies there.
        """
        stored = StoreEntry(sha256=file.sha256, bytes=file.size)
        if self._holds(stored):
            return stored
        target = self._path(stored)
        try:
            if isinstance(self._files, LocalFileSystem):
                # In a folder, a reader must never find half a file under a whole file's name.
                with file_atomic(own_folder(Path(self._root), stored.sha256[:2], stored.sha256)) as new:
                    shutil.copyfile(file.address(), new)
            else:  # the others put a file at once
                self._files.makedirs(target.rpartition("/")[0], exist_ok=True)
                self._files.put_file(file.address(), target)
        except OutputError:
            raise
        except Exception as error:  # every kind of store has errors of its own
            raise RunError(f"Storing {file} in {self.url} failed ({error!r}); is it writable for you?") from error
        if not self._holds(stored):
            raise RunError(f"{self.url} does not give {stored.sha256} back as it was stored; that store is damaged.")
        return stored

    def _holds(self, stored: StoreEntry) -> bool:
        """True if what lies there has this content, all of it read."""
        try:
            return self.has(stored) and self._copied(stored, None) == stored.sha256
        except RunError:
            return False

    def has(self, stored: StoreEntry) -> bool:
        """True if a file of this content and size lies there."""
        try:
            found = self._files.info(self._path(stored))
            return bool(found["type"] == "file" and found["size"] == stored.bytes)  # no pipe, which would never end
        except Exception:  # absent, unreachable or not allowed: in each case it cannot be had
            return False

    def get(self, stored: StoreEntry, target: Path) -> None:
        """Bring a file to `target`, whole and checked, or not at all.

        Raises: RunError if it is not there, or is not what its name says.
        """
        if not self.has(stored):
            raise RunError(
                f"{self.url} has no file {stored.sha256} of {stored.bytes} bytes; set {ENVIRONMENT_VARIABLE} to the "
                "store that the golden was blessed into, or run the official runner again."
            )
        with file_atomic(target) as new:
            with new.open("wb") as local:
                digest = self._copied(stored, local)
            if digest != stored.sha256:
                raise RunError(f"{self.url} gave other content for {stored.sha256}; that store is damaged.")

    def put_record(self, name: str, text: str) -> None:
        """Write a record, in place of one that is there. Raises: RunError if the store does not take it; OutputError.

        A record may be read by others while it is replaced: they find the older or the newer one, whole.
        """
        target, data = self._record_path(name), text.encode()
        try:
            if isinstance(self._files, LocalFileSystem):
                path = own_folder(Path(self._root), *target.removeprefix(f"{self._root}/").split("/"))
                path.parent.mkdir(parents=True, exist_ok=True)
                write_bytes_atomic(path, data)
            else:  # the others put a file at once
                self._files.makedirs(target.rpartition("/")[0], exist_ok=True)
                self._files.pipe_file(target, data)
        except OutputError:
            raise
        except Exception as error:  # every kind of store has errors of its own
            raise RunError(f"Storing {name} in {self.url} failed ({error!r}); is it writable for you?") from error

    def record(self, name: str) -> str | None:
        """A record's text; None if there is none of that name. Raises: RunError if it is there and cannot be read."""
        path = self._record_path(name)
        try:
            found = self._files.info(path)
        except FileNotFoundError:
            return None
        except Exception as error:
            raise RunError(f"Looking for {name} in {self.url} failed ({error!r}); can you reach it?") from error
        if found["type"] != "file" or found["size"] > MAX_RECORD_BYTES:
            raise RunError(f"{name} in {self.url} is no file of at most {MAX_RECORD_BYTES} bytes; remove it there.")
        try:
            with self._files.open(path, "rb") as remote:
                data: bytes = remote.read(MAX_RECORD_BYTES + 1)
            if len(data) > MAX_RECORD_BYTES:  # it grew meanwhile
                raise ValueError(f"more than {MAX_RECORD_BYTES} bytes")
            return data.decode("utf-8")
        except Exception as error:
            raise RunError(f"Reading {name} from {self.url} failed ({error!r}).") from error

    def record_names(self, folder: str) -> tuple[str, ...]:
        """The names of the records directly in a folder of records, sorted. Raises: RunError if it cannot be listed."""
        place = f"{self._root}/{RECORDS}/{folder}"
        try:
            self._files.invalidate_cache()  # others write there, too
            found = self._files.ls(place, detail=False)
        except FileNotFoundError:
            return ()
        except Exception as error:
            raise RunError(f"Listing {folder} in {self.url} failed ({error!r}); can you reach it?") from error
        names = (f"{folder}/{str(path).rstrip('/').rpartition('/')[2]}" for path in found)
        bare = (name.removesuffix(".json") for name in names if name.endswith(".json"))
        return tuple(sorted(name for name in bare if _RECORD_NAME.fullmatch(name)))

    def _record_path(self, name: str) -> str:
        if not _RECORD_NAME.fullmatch(name):  # it becomes a path
            raise RunError(f"{name[:200]!r} cannot be the name of a record: folders and a name, of plain signs.")
        return f"{self._root}/{RECORDS}/{name}.json"

    def _copied(self, stored: StoreEntry, local: BinaryIO | None) -> str:
        """The hash of what lies there, "" if its size is another one; a copy goes to `local`, if there is one."""
        total, left = hashlib.sha256(), stored.bytes
        try:
            with self._files.open(self._path(stored), "rb") as remote:
                while part := remote.read(min(_CHUNK, left + 1)):
                    left -= len(part)
                    if left < 0:
                        break  # longer than announced: the hash will not fit
                    total.update(part)
                    if local is not None:
                        local.write(part)
        except Exception as error:
            raise RunError(f"Reading {stored.sha256} from {self.url} failed ({error!r}).") from error
        return total.hexdigest() if left == 0 else ""

    def _path(self, stored: StoreEntry) -> str:
        return f"{self._root}/{stored.sha256[:2]}/{stored.sha256}"


def open_store() -> Store:
    """The store that `PARITY_STORE` names, or the folder used without it. Raises: RunError."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return Store(os.environ.get(ENVIRONMENT_VARIABLE) or str(cache / "ltx-parity" / "store"))
