"""Which official code is installed: every file's hash against those of a known release."""

import hashlib
import importlib.util
import json
from importlib.resources import files
from pathlib import Path

from runners.errors import RunnerError

PACKAGES = ("ltx_core", "ltx_pipelines")
KNOWN_RELEASES = ("1.0.0",)
LISTED = 10


def package_root() -> Path:
    """The folder that holds the official packages. Raises: RunnerError if they are not installed."""
    roots = set()
    for package in PACKAGES:
        found = importlib.util.find_spec(package)
        if found is None or not found.submodule_search_locations:
            raise RunnerError(
                f"The official package {package} is not installed; run `make setup`, or `pip install '.[official]'`."
            )
        roots.add(Path(found.submodule_search_locations[0]).parent)
    if len(roots) != 1:
        raise RunnerError(
            f"The official packages lie in different places ({sorted(map(str, roots))}); install one set."
        )
    return roots.pop()


def known_hashes(release: str) -> dict[str, str]:
    """SHA-256 of every source file of a release, by path below site-packages."""
    text = files("runners").joinpath(f"official_release_{release}.json").read_text(encoding="utf-8")
    hashes: dict[str, str] = json.loads(text)["files"]
    return hashes


def differing_files(root: Path, release: str) -> list[str]:
    """Files under `root` that are missing, changed, or not part of the release, in order."""
    known = known_hashes(release)
    different = []
    for name, wanted in known.items():
        path = root / name
        if not path.is_file():
            different.append(f"{name} (missing)")
        elif hashlib.sha256(path.read_bytes()).hexdigest() != wanted:
            different.append(f"{name} (changed)")
    for package in PACKAGES:
        present = {str(path.relative_to(root)) for path in (root / package).rglob("*.py")}
        different += [f"{name} (not part of it)" for name in present - known.keys()]
    return sorted(different)


def require_release(release: str) -> Path:
    """The installed packages' folder, if they are the named release, byte for byte.

    Raises: RunnerError naming the first ten files that differ.
    """
    root = package_root()
    different = differing_files(root, release)
    if different:
        more = f" and {len(different) - LISTED} more" if len(different) > LISTED else ""
        raise RunnerError(
            f"The installed official code is not release {release}: {', '.join(different[:LISTED])}{more}. "
            "What it computes is no reference; install the packages again with `make setup`."
        )
    return root
