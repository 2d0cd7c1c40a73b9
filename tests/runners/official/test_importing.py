"""Imported code is what was hashed: from the sources of the two packages, past caches and strange neighbours."""

import importlib.util
import py_compile
import subprocess
import sys
from pathlib import Path

import pytest

from runners.errors import RunnerError
from runners.official.files import official_code

ROOT = Path(__file__).parents[3]
PROGRAM = """
import sys
from pathlib import Path
from runners.official.files import official_code
from runners.official.importing import import_from

root = Path(sys.argv[1])
import_from(official_code(root))
import ltx_core.deep.part, ltx_pipelines, colorsys
there = Path(ltx_core.__file__).is_relative_to(root)
print(ltx_core.deep.part.VALUE, ltx_pipelines.VALUE, there, hasattr(colorsys, "MINE"))
"""


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """Something laid out like a checkout, importable in no time."""
    files = {
        "ltx-core/src/ltx_core/__init__.py": "",
        "ltx-core/src/ltx_core/deep/__init__.py": "",
        "ltx-core/src/ltx_core/deep/part.py": "VALUE = 3\n",
        "ltx-pipelines/src/ltx_pipelines/__init__.py": "VALUE = 5\n",
        "ltx-pipelines/src/ltx_pipelines/utils/__init__.py": "",
    }
    for name, text in files.items():
        path = tmp_path / "LTX-2/packages" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path / "LTX-2"


def imported(checkout: Path) -> str:
    command = [sys.executable, "-c", PROGRAM, str(checkout)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_a_checkout_is_imported_in_place_of_what_is_installed_and_left_as_it_was(checkout: Path) -> None:
    before = sorted(checkout.rglob("*"))
    assert imported(checkout) == "3 5 True False"
    assert sorted(checkout.rglob("*")) == before


def test_a_cache_that_passes_for_a_source_is_not_run(checkout: Path) -> None:
    part = checkout / "packages/ltx-core/src/ltx_core/deep/part.py"
    other = checkout / "other.py"
    other.write_text("VALUE = 4\n")
    cache = importlib.util.cache_from_source(str(part))
    py_compile.compile(str(other), cache, doraise=True, invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH)
    assert imported(checkout) == "3 5 True False"


def test_what_else_lies_beside_the_packages_takes_no_librarys_place(checkout: Path) -> None:
    (checkout / "packages/ltx-core/src/colorsys.py").write_text("MINE = True\n")
    assert imported(checkout) == "3 5 True False"


def test_a_linked_folder_counts_with_all_it_holds(checkout: Path) -> None:
    deep = checkout / "packages/ltx-core/src/ltx_core/deep"
    whole = official_code(checkout)
    deep.rename(checkout / "elsewhere")
    deep.symlink_to(checkout / "elsewhere")
    assert official_code(checkout).sha256 == whole.sha256
    (checkout / "part").mkdir()
    (checkout / "part/__init__.py").write_text("VALUE = 4\n")
    (deep / "part").symlink_to(checkout / "part")  # would be imported in place of part.py
    assert official_code(checkout).sha256 != whole.sha256
    assert imported(checkout) == "4 5 True False"


def test_a_link_into_a_circle_is_refused(checkout: Path) -> None:
    deep = checkout / "packages/ltx-core/src/ltx_core/deep"
    (deep / "again").symlink_to(deep.parent)
    with pytest.raises(RunnerError, match=r"deep/again is a link to a folder that it lies in; remove it"):
        official_code(checkout)
