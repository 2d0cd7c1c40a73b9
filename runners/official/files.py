"""Identification of official code: every file's hash against those of the releases known here.

The code is either installed as packages, or a checkout of the public repository Lightricks/LTX-2 whose root is named.
Only hashes of it are kept here; nothing else of a checkout enters this repository.
"""

import hashlib
import importlib.util
import json
import os
import re
from dataclasses import dataclass
from importlib.machinery import BYTECODE_SUFFIXES, EXTENSION_SUFFIXES
from importlib.resources import files
from pathlib import Path
from typing import Any

from runners.errors import RunnerError
from runners.files import sha256_of
from runners.load import read_text
from runners.releases import CUSTOM

PACKAGES = ("ltx_core", "ltx_pipelines")
KNOWN_RELEASES = ("1.0.0", "1.1.2", "1.2.0")
INSTALLED_RELEASE = KNOWN_RELEASES[0]  # the one that the package index has
LISTED = 10
MAX_REFERENCE_BYTES = 1 << 20  # of a small text file below .git
_CHECKOUT_SOURCES = {"ltx_core": "packages/ltx-core/src", "ltx_pipelines": "packages/ltx-pipelines/src"}
_COMMIT = re.compile(r"[0-9a-f]{40}([0-9a-f]{24})?")


@dataclass(frozen=True, kw_only=True)
class OfficialCode:
    """A folder of official code and the release it is."""

    sources: tuple[Path, ...]  # folders to import from; each package lies in one of them
    release: str  # one of KNOWN_RELEASES, or CUSTOM
    sha256: str  # over the names and hashes of all its source files
    commit: str | None  # of a checkout that has its .git
    installed: bool  # whether it needs no path to be imported

    def details(self) -> dict[str, str | None]:
        """The details that a run records about the code that made it."""
        return {"official_release": self.release, "official_sha256": self.sha256, "official_commit": self.commit}


def official_code(root: Path | None = None) -> OfficialCode:
    """Recognise official code by its files.

    Args:
        root: root of a checkout, or a folder that holds both packages; None takes what is installed.
    Raises: RunnerError if there is no official code, or what is installed is not the release it should be.
    """
    if root is None:
        installed = require_release(INSTALLED_RELEASE)
        digest = total_sha256(_hashes((installed,)))
        return OfficialCode(sources=(installed,), release=INSTALLED_RELEASE, sha256=digest, commit=None, installed=True)
    sources = _sources(root.resolve())
    present = _hashes(sources)
    release = next((name for name in KNOWN_RELEASES if present == known_hashes(name)), CUSTOM)
    commit = _commit(root.resolve()) or known_commit(release)
    return OfficialCode(sources=sources, release=release, sha256=total_sha256(present), commit=commit, installed=False)


def package_root() -> Path:
    """The folder that holds the official packages. Raises: RunnerError if they are not installed."""
    roots = set()
    for package in PACKAGES:
        found = importlib.util.find_spec(package)
        if found is None or not found.submodule_search_locations:
            raise RunnerError(
                f"The official package {package} is not installed; `pip install 'ltx-parity[official]'` does "
                "that, in a checkout `make setup`."
            )
        roots.add(Path(found.submodule_search_locations[0]).parent)
    if len(roots) != 1:
        raise RunnerError(
            f"The official packages lie in different places ({sorted(map(str, roots))}); install one set."
        )
    return roots.pop()


def known_hashes(release: str) -> dict[str, str]:
    """SHA-256 of every source file of a release, by path below the folder that holds the package."""
    hashes: dict[str, str] = _manifest(release)["files"]
    return hashes


def known_commit(release: str) -> str | None:
    """The repository's commit that a release is; None for code that is none, and for 1.0.0, which is several."""
    commit: str | None = _manifest(release).get("commit") if release in KNOWN_RELEASES else None
    return commit


def _manifest(release: str) -> dict[str, Any]:
    text = files("runners.official").joinpath(f"release_{release}.json").read_text(encoding="utf-8")
    manifest: dict[str, Any] = json.loads(text)
    return manifest


def differing_files(root: Path, release: str) -> list[str]:
    """Files under `root` that are missing, changed, or not part of the release, in order."""
    known, present = known_hashes(release), _hashes((root,))
    different = [f"{name} (missing)" for name in known.keys() - present.keys()]
    different += [f"{name} (not part of it)" for name in present.keys() - known.keys()]
    different += [f"{name} (changed)" for name in known.keys() & present.keys() if known[name] != present[name]]
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


def total_sha256(hashes: dict[str, str]) -> str:
    """One hash for many files: over lines `HASH  NAME` in order of name, as `sha256sum` prints them."""
    lines = "".join(f"{value}  {name}\n" for name, value in sorted(hashes.items()))
    return hashlib.sha256(lines.encode()).hexdigest()


def _sources(root: Path) -> tuple[Path, ...]:
    """The folders with the packages in a checkout, or `root` itself if it holds them."""
    if all((root / package / "__init__.py").is_file() for package in PACKAGES):
        return (root,)
    folders = tuple(root / _CHECKOUT_SOURCES[package] for package in PACKAGES)
    missing = [
        f"{_CHECKOUT_SOURCES[package]}/{package}"
        for package, folder in zip(PACKAGES, folders, strict=True)
        if not (folder / package / "__init__.py").is_file()
    ]
    if missing:
        raise RunnerError(
            f"{root} is no checkout of Lightricks/LTX-2: it has no {' and no '.join(missing)}. "
            "Pass the root of the repository with --official-root."
        )
    return folders


def _hashes(sources: tuple[Path, ...]) -> dict[str, str]:
    """SHA-256 of everything that the packages run or read, by name, behind links too. Raises: RunnerError."""
    hashes = {}
    for source in sources:
        for package in PACKAGES:
            for folder, folders, names in os.walk(source / package, followlinks=True):
                here = Path(folder)
                if here.is_symlink() and here.resolve() in (above.resolve() for above in here.parents):
                    raise RunnerError(f"{here} is a link to a folder that it lies in; remove it.")
                folders[:] = [name for name in folders if name != "__pycache__"]
                for path in (here / name for name in names):
                    if _counts(path):
                        hashes[path.relative_to(source).as_posix()] = sha256_of(path, RunnerError)
    return hashes


def _counts(path: Path) -> bool:
    """Sources, their prompts, and whatever would be imported in a source's place; caches are not read."""
    suffixes = (".py", ".txt", ".json", *EXTENSION_SUFFIXES, *BYTECODE_SUFFIXES)
    return path.name.endswith(suffixes) and path.is_file()


def _commit(root: Path) -> str | None:
    """The commit that a checkout's .git says is checked out, read without running anything of it."""
    git = root / ".git"
    if git.is_file():  # a further working tree of a repository
        text = _small_text(git)
        git = (root / text.removeprefix("gitdir:").strip()).resolve()
    head = _small_text(git / "HEAD")
    if not head.startswith("ref:"):
        return head if _COMMIT.fullmatch(head) else None
    name = head.removeprefix("ref:").strip()
    common = _small_text(git / "commondir")
    for folder in (git, *([(git / common).resolve()] if common else [])):
        found = _small_text(folder / name) if ".." not in Path(name).parts else ""
        packed = re.search(rf"^([0-9a-f]+) {re.escape(name)}$", _small_text(folder / "packed-refs"), re.MULTILINE)
        for commit in (found, packed[1] if packed else ""):
            if _COMMIT.fullmatch(commit):
                return commit
    return None


def _small_text(path: Path) -> str:
    """A small file's text without white space around it, or nothing."""
    try:
        return read_text(path, RunnerError, "", max_bytes=MAX_REFERENCE_BYTES).strip()
    except RunnerError:
        return ""
