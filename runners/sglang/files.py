"""Identification of SGLang: its version, and one hash over every Python file of the package."""

import hashlib
import importlib.metadata
import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from runners.errors import RunnerError
from runners.files import sha256_of

KNOWN: Final = {
    "bbf7335de673bf08eee2bfa8970d392488dfc106306314024207c8ea08921e8d": "0.5.23",
}  # hash -> version, as its wheel holds it


@dataclass(frozen=True, kw_only=True)
class EngineFiles:
    """An installed package: its version and its files' hash."""

    version: str
    sha256: str  # over the names and hashes of its Python files
    known: str | None  # the version whose wheel has exactly these files

    @property
    def words(self) -> str:
        """The version, and a note if it is none of those that this project knows."""
        if self.known is not None:
            return f"SGLang {self.known}"
        return f"SGLang {self.version}, whose files are those of no version known here ({', '.join(KNOWN.values())})"

    def details(self) -> dict[str, Any]:
        """What a run records about the code that made it."""
        return {"sglang_version": self.version, "sglang_sha256": self.sha256, "sglang_known": self.known}


def sglang_files() -> EngineFiles:
    """Recognise the installed SGLang by its files. Raises: RunnerError if there is none."""
    spec = importlib.util.find_spec("sglang")
    if spec is None or not spec.submodule_search_locations:
        raise RunnerError("SGLang is not installed here; docs/engines.md says what to install.")
    root = Path(spec.submodule_search_locations[0])
    lines = []
    for path in sorted(root.rglob("*.py")):
        name = path.relative_to(root).as_posix()
        lines.append(f"{sha256_of(path, RunnerError)}  {name}\n")
    digest = hashlib.sha256("".join(lines).encode()).hexdigest()
    try:
        version = importlib.metadata.version("sglang")
    except importlib.metadata.PackageNotFoundError:
        version = "unknown"
    return EngineFiles(version=version, sha256=digest, known=KNOWN.get(digest))
