"""Identification of an engine's code by one hash over its Python files, whatever version it calls itself."""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from runners.errors import RunnerError
from runners.files import sha256_of


@dataclass(frozen=True, kw_only=True)
class EngineFiles:
    """The code of an engine, or of a part of it: what it calls itself, and its files' hash."""

    engine: str
    version: str
    sha256: str  # over the names and hashes of its Python files
    versions: Mapping[str, str]  # hash -> version, those that this project knows

    @property
    def known(self) -> str | None:
        """The version whose files are exactly these."""
        return self.versions.get(self.sha256)

    @property
    def words(self) -> str:
        """The version, and a note if it is none of those that this project knows."""
        if self.known is not None:
            return f"{self.engine} {self.known}"
        return (
            f"{self.engine} {self.version}, whose files are those of no version known here "
            f"({', '.join(self.versions.values())})"
        )


def files_hash(root: Path, paths: Iterable[Path]) -> str:
    """SHA-256 over the names below `root` and the contents of files, ordered by name. Raises: RunnerError."""
    lines = [f"{sha256_of(path, RunnerError)}  {path.relative_to(root).as_posix()}\n" for path in sorted(paths)]
    return hashlib.sha256("".join(lines).encode()).hexdigest()
