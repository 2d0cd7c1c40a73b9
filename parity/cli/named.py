"""Options that name a case or a runner: refused before anything that computes is imported, completed by the shell."""

from collections.abc import Callable
from typing import Annotated

import typer

from parity.runs.places import case_file, case_folders
from runners.errors import ParityError
from runners.names import NAMES, require_named


def _known_case(name: str) -> str:
    return _checked(name, case_file)


def _known_cases(names: list[str]) -> list[str]:
    return [_checked(name, case_file) for name in names]


def _known_runner(name: str) -> str:
    return _checked(name, require_named)


def _checked(name: str, check: Callable[[str], object]) -> str:
    try:
        check(name)
    except ParityError as error:
        raise typer.BadParameter(str(error)) from None
    return name


def _cases_like(incomplete: str) -> list[str]:
    return [folder.name for folder in case_folders() if folder.name.startswith(incomplete)]


def _runners_like(incomplete: str) -> list[str]:
    return [name for name in NAMES if name.startswith(incomplete)]


CaseName = Annotated[
    str,
    typer.Option(
        "--case", callback=_known_case, autocompletion=_cases_like, help="Id under golden/, or path of a TOML file."
    ),
]
CaseNames = Annotated[
    list[str],
    typer.Option(
        "--case",
        callback=_known_cases,
        autocompletion=_cases_like,
        help="Id under golden/ or path of a TOML file; repeat for more.",
    ),
]
RunnerName = Annotated[
    str,
    typer.Option(
        "--runner",
        callback=_known_runner,
        autocompletion=_runners_like,
        help="official, native, diffusers, sglang, comfyui, or FILE.py:CLASS for one of your own.",
    ),
]
