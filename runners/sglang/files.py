"""Identification of SGLang: its version, and one hash over every Python file of the package."""

import importlib.metadata
import importlib.util
from pathlib import Path
from typing import Any, Final

from runners.engine_files import EngineFiles, files_hash
from runners.errors import RunnerError

KNOWN: Final = {
    "bbf7335de673bf08eee2bfa8970d392488dfc106306314024207c8ea08921e8d": "0.5.23",
}  # hash -> version, as its wheel holds it


def sglang_files() -> EngineFiles:
    """Recognise the installed SGLang by its files. Raises: RunnerError if there is none."""
    spec = importlib.util.find_spec("sglang")
    if spec is None or not spec.submodule_search_locations:
        raise RunnerError("SGLang is not installed here; docs/engines.md says what to install.")
    root = Path(spec.submodule_search_locations[0])
    try:
        version = importlib.metadata.version("sglang")
    except importlib.metadata.PackageNotFoundError:
        version = "unknown"
    return EngineFiles(engine="SGLang", version=version, sha256=files_hash(root, root.rglob("*.py")), versions=KNOWN)


def details(files: EngineFiles) -> dict[str, Any]:
    """Facts of the code, which a run of it records."""
    return {"sglang_version": files.version, "sglang_sha256": files.sha256, "sglang_known": files.known}
