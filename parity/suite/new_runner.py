"""A runner to begin with: three files that run as they are."""

import keyword
import re
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Final

from parity.trace.atomic import write_bytes_atomic
from runners.errors import RunnerError
from runners.names import NAMES

_NAME: Final = re.compile(r"[a-z][a-z0-9_]{0,39}")
_FILES: Final = {"runner.py.txt": "{name}.py", "test.py.txt": "test_{name}.py", "README.md.txt": "README.md"}


def write_runner(name: str, folder: Path) -> tuple[Path, ...]:
    """Write a runner, its test and its README into a folder, which is made. Returns: their paths.

    Raises: RunnerError for a name that is none or is taken, or where one of the files is there.
    """
    if not _NAME.fullmatch(name) or keyword.iskeyword(name) or name in NAMES:
        raise RunnerError(
            f"{name[:60]!r} cannot be the name of a runner and of its module: take small letters, digits and _, "
            f"at most 40, and none of {', '.join(NAMES)}."
        )
    class_name = "".join(part.capitalize() for part in name.split("_")) or "Engine"
    wanted = {template: folder / made.format(name=name) for template, made in _FILES.items()}
    there = [str(path) for path in wanted.values() if path.exists()]
    if there:
        raise RunnerError(f"{', '.join(there)} is there already; take another --out.")
    folder.mkdir(parents=True, exist_ok=True)
    source = files("parity.suite") / "template"
    for template, path in wanted.items():
        text = (source / template).read_text(encoding="utf-8")
        write_bytes_atomic(path, Template(text).substitute(name=name, class_name=class_name).encode())
    return tuple(wanted.values())
