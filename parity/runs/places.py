"""The places of the project's data: a project's own cases, goldens and limits, and those that ship with this code.

One's own lie in a project: the nearest folder above with `[tool.parity]` in its pyproject.toml, or with a
`parity/parity.toml`, as `parity init` leaves one; each says in `root` where the data is. What ships is that of the
checkout, or package data of a wheel. Data is read from one's own first, and written to one's own alone. `$PARITY_ROOT`
names one folder for both, beside which nothing is read.
"""

import os
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path, PurePosixPath
from typing import Any, Final

import parity
from parity.runs.sglang_names import SGLANG_NAMES
from runners.errors import CaseError, ConfigError, RunError
from runners.load import parse_toml, read_text
from runners.nearest import did_you_mean

PYPROJECT, TABLE = "pyproject.toml", "parity"  # [tool.parity] in it
PROJECT_FOLDER, PROJECT_FILE = "parity", "parity.toml"
CASE_FILE: Final = "case.toml"
MAX_PYPROJECT_BYTES: Final = 1 << 20
SHIPPED: Final = "shipped"  # folder of package data in the package `parity`; pyproject.toml puts it there
REMEDY: Final = 'a project says `[tool.parity]` with `root = "FOLDER"`, or nothing; `parity init` writes it'


def project_root() -> Path:
    """The folder of one's own `golden/` and `thresholds/`: $PARITY_ROOT, else the project's, else the checkout's.

    Raises: RunError if there is none; ConfigError for a project file that says something else.
    """
    if given := _given_root():
        return given
    if (found := found_project(Path.cwd())) is not None:
        return found
    if (checkout := _checkout()) is not None:
        return checkout
    raise RunError(
        "There is no project here or above to keep cases, goldens, limits or baselines in; `parity init` makes one, "
        "PARITY_ROOT names one."
    )


def data_roots() -> tuple[Path, ...]:
    """The folders with `golden/` and `thresholds/` to read from, one's own first, then what ships with this code.

    Raises: as `project_root`, but not for want of a project.
    """
    if given := _given_root():
        return (given,)
    own, shipped = found_project(Path.cwd()), shipped_root()
    if own is None or own.resolve() == shipped:
        return (shipped,)
    return own, shipped


def shipped_root() -> Path:
    """The folder of the data that ships with this code: the checkout it is of, else package data.

    Raises: RunError if the installation has none.
    """
    if (checkout := _checkout()) is not None:
        return checkout
    packaged = files("parity") / SHIPPED
    if not isinstance(packaged, Path) or not (packaged / "golden").is_dir():
        raise RunError("This installation has no goldens and limits in it; install the wheel again, unpacked.")
    return packaged


def foreign_root(root: Path) -> Path | None:
    """A root of data where it is not what ships with this code; else None."""
    return None if root.resolve() == shipped_root() else root.absolute()


def case_root(case_id: str) -> Path:
    """The first root that has a case; the first of all if none has."""
    roots = data_roots()
    return next((root for root in roots if (root / "golden" / case_id / CASE_FILE).is_file()), roots[0])


def case_id_of(name: str) -> str:
    """The id of a case that is named by it, or by SGLang's name for it; a case of one's own may have such a name."""
    return name if (case_folder(name) / CASE_FILE).is_file() else SGLANG_NAMES.get(name, name)


def case_folder(case_id: str) -> Path:
    """The folder of a case: its file, pictures and golden."""
    return case_root(case_id) / "golden" / case_id


def own_case_folder(case_id: str) -> Path:
    """The folder in which a case's golden may be changed. Raises: as `project_root`; RunError for a case that ships."""
    folder = project_root() / "golden" / case_id
    if not folder.exists() and case_folder(case_id).exists():
        raise RunError(
            f"Case {case_id!r} ships with parity, where nothing is changed; `parity init --case {case_id}` copies it "
            f"to {folder}."
        )
    return folder


def case_file(name: str) -> Path:
    """The file of a case, named by its id under golden/, by SGLang's name for it or by its path. Raises: CaseError."""
    path = Path(name)
    if path.suffix == ".toml" or path.is_file():
        return path
    if path.name != name or name.startswith("."):
        raise CaseError(f"{name!r} is neither a TOML file nor an id under golden/; give one of them.")
    path = case_folder(case_id_of(name)) / CASE_FILE
    if not path.exists():
        there = [folder.name for folder in case_folders()]
        there += [alias for alias, case_id in SGLANG_NAMES.items() if case_id in there]
        raise CaseError(
            f"There is no case {name!r}; pass the path of a TOML file or an id under golden/: "
            f"{', '.join(there) or 'there is none'}.{did_you_mean(name, there)}"
        )
    return path


def case_folders() -> list[Path]:
    """The folder of every case there is, by id; one's own stands before one of that id that ships."""
    found: dict[str, Path] = {}
    for root in data_roots():
        for path in sorted((root / "golden").glob(f"*/{CASE_FILE}")):
            found.setdefault(path.parent.name, path.parent)
    return [found[name] for name in sorted(found)]


def limits_path(root: Path | None = None) -> Path:
    """The threshold registry in a root; None takes one's own."""
    return (root or project_root()) / "thresholds" / "consistency_threshold.json"


def form_limits_path(form: str, root: Path | None = None) -> Path:
    """The threshold registry of outputs in a lossy form; `form` is a label that `parity.runs.encoding` has read."""
    return (root or project_root()) / "thresholds" / "forms" / form / "consistency_threshold.json"


def form_limits_paths() -> tuple[Path, ...]:
    """The threshold registries of lossy forms that there are."""
    return tuple(sorted((project_root() / "thresholds" / "forms").glob("*/consistency_threshold.json")))


def baselines_path() -> Path:
    """The performance baselines to compare with: one's own, without a project those that ship."""
    return data_roots()[0] / "thresholds" / "perf_baselines.json"


def own_baselines_path() -> Path:
    """The performance baselines of one's own project, which alone are changed."""
    return project_root() / "thresholds" / "perf_baselines.json"


def perf_history_path() -> Path:
    """The history of speed, a JSON line each, of one's own project."""
    return project_root() / "thresholds" / "perf_history.jsonl"


def mutation_path(root: Path | None = None) -> Path:
    """The last saved mutation score of a root: how many known defects each level of evidence catches."""
    return (root or project_root()) / "docs" / "measurements" / "mutation_tiny.json"


def form_mutation_path(form: str, root: Path | None = None) -> Path:
    """The last count of known defects that outputs in a lossy form give away; `form` as `form_limits_path` has it."""
    return (root or project_root()) / "docs" / "measurements" / f"form_{form}.json"


def found_project(folder: Path) -> Path | None:
    """The root that the nearest project file in a folder or above it names; None if there is none.

    Raises: ConfigError for a project file that says something else than where its root is.
    """
    for above in (folder, *folder.parents):
        for table in _tables(above):
            return _root_of(*table)
    return None


def _tables(folder: Path) -> Iterator[tuple[Path, Any]]:
    """Our part of each project file of a folder, with the file's path."""
    pyproject, own = folder / PYPROJECT, folder / PROJECT_FOLDER / PROJECT_FILE
    if pyproject.is_file():
        text = read_text(pyproject, ConfigError, REMEDY, max_bytes=MAX_PYPROJECT_BYTES)
        if f"tool.{TABLE}" in text.replace(" ", ""):  # another tool's file may be as it likes
            tool = parse_toml(text, str(pyproject), ConfigError, REMEDY).get("tool")
            if isinstance(tool, dict) and TABLE in tool:
                yield pyproject, tool[TABLE]
    if own.is_file():
        text = read_text(own, ConfigError, REMEDY, max_bytes=MAX_PYPROJECT_BYTES)
        yield own, parse_toml(text, str(own), ConfigError, REMEDY)


def _root_of(path: Path, table: Any) -> Path:
    named = table.get("root", PROJECT_FOLDER if path.name == PYPROJECT else ".") if isinstance(table, dict) else None
    if not isinstance(named, str) or (unknown := sorted(set(table) - {"root"})):
        wrong = f"has the keys {', '.join(unknown)[:80]}" if isinstance(named, str) else "has no root that is a text"
        raise ConfigError(f"{path} {wrong}; {REMEDY}.")
    inside = PurePosixPath(named)
    if inside.is_absolute() or ".." in inside.parts:
        raise ConfigError(f"{path} names the root {named[:80]!r}, which lies outside of its folder; {REMEDY}.")
    return path.parent / inside


def _given_root() -> Path | None:
    given = os.environ.get("PARITY_ROOT")
    if not given:
        return None
    if (Path(given) / "golden").is_dir():  # one that is being set up has no limits yet
        return Path(given)
    raise RunError(
        f"PARITY_ROOT is {given}, which has no folder golden/; set it to a checkout or a project's folder, or not at "
        "all."
    )


def _checkout() -> Path | None:
    root = Path(parity.__file__).resolve().parent.parent
    return root if (root / "golden").is_dir() and (root / PYPROJECT).is_file() else None
