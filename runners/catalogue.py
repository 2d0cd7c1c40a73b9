"""The runners there are, by name, and others by the file they are in."""

import importlib.util
import os
import re
import sys
import traceback
from pathlib import Path
from typing import Any

from runners.closed_input import closed_input
from runners.errors import ParityError, RunnerError
from runners.files import opened
from runners.names import NAME, NAMES, require_named
from runners.protocol import TIERS, Runner, RunOptions, Tier
from runners.weights import Weights

CHILD = "PARITY_CHILD"  # environment variable of an interpreter that was asked for, and of all that it starts


def open_runner(
    name: str,
    weights: Weights,
    options: RunOptions,
    overrides: dict[str, Any] | None = None,
    command_line: dict[str, Any] | None = None,
    official_root: Path | None = None,
    engine_root: Path | None = None,
) -> Runner:
    """A runner by name; imported only now, so that one can be used without what the others need.

    Args:
        name: one of NAMES, or FILE.py:CLASS for an engine of one's own; the class is called with weights and options.
        weights: the model's files.
        options: device, dtype, tier, single reference behaviours.
        overrides: pipeline options laid over the case's; native only.
        command_line: pipeline options given on the command line, laid over both; native only.
        official_root: root of a checkout of the official code, in place of what is installed; official only.
        engine_root: root of a checkout of the engine; comfyui only.
    Raises: RunnerError for another name, options that the runner does not have, or a module that it lacks.
    """
    try:
        return _open_runner(name, weights, options, overrides, command_line, official_root, engine_root)
    except ImportError as error:
        raise failed(name, error) from error


def _open_runner(
    name: str,
    weights: Weights,
    options: RunOptions,
    overrides: dict[str, Any] | None,
    command_line: dict[str, Any] | None,
    official_root: Path | None,
    engine_root: Path | None,
) -> Runner:
    if official_root is not None and name != "official":
        raise RunnerError(f"Runner {name!r} takes no --official-root; only the official runner does.")
    if engine_root is not None and name != "comfyui":
        raise RunnerError(f"Runner {name!r} takes no --engine-root; only the comfyui runner does.")
    if name == "native":
        from runners.native.runner import NativeRunner

        return NativeRunner(weights, options, overrides, command_line)
    given = sorted(
        {**(overrides or {}), **{key: value for key, value in (command_line or {}).items() if value is not None}}
    )
    # Spelling out the official run's only way is no override of it.
    if given and not (given == ["disable_autocast"] and not overrides and (command_line or {})["disable_autocast"]):
        raise RunnerError(f"Runner {name!r} has no pipeline options ({', '.join(given)}); only the native runner has.")
    if name == "official":
        from runners.official.runner import OfficialRunner

        return OfficialRunner(weights, options, official_root=official_root)
    if name == "diffusers":
        from runners.diffusers.runner import DiffusersRunner

        return DiffusersRunner(weights, options)
    if name == "sglang":
        from runners.sglang.runner import SGLangRunner

        return SGLangRunner(weights, options)
    if name == "comfyui":
        from runners.comfyui.runner import ComfyUIRunner

        return ComfyUIRunner(weights, options, engine_root)
    require_named(name)
    file, _, engine = name.rpartition(":")
    return _opened(Path(file), engine, weights, options)


def runner_and_tier(text: str) -> tuple[str, Tier]:
    """A runner's name and tier out of `NAME[:TIER]`; without a tier, "exact". `FILE.py:CLASS` is a name.

    Raises: RunnerError for a tier that there is not.
    """
    name, colon, last = text.rpartition(":")
    if not colon or name not in NAMES:
        return text, "exact"
    tier = next((one for one in TIERS if one == last), None)
    if tier is None:
        raise RunnerError(f"Runner {name!r} has no tier {last!r}; take NAME[:TIER], a tier of {', '.join(TIERS)}.")
    return name, tier


def is_known(runner: Runner) -> bool:
    """True if a runner is the one of its name here, and no stranger that calls itself so."""
    name = getattr(runner, "name", None)
    return name in NAMES and type(runner).__module__ == f"runners.{name}.runner"


def require_own_name(name: Any, whose: str) -> str:
    """The name that a runner of a file gives itself. Raises: RunnerError if it is none, or one of NAMES."""
    if not isinstance(name, str) or not re.fullmatch(NAME, name):
        raise RunnerError(
            f"{whose} calls itself {str(name)[:60]!r}; a runner's name is of small letters, digits, '_', '.' and '-', "
            "40 at most."
        )
    if name in NAMES:
        raise RunnerError(f"{whose} calls itself {name!r}; {', '.join(NAMES)} are taken. Give it a name of its own.")
    return name


def failed(runner: str, error: Exception) -> RunnerError:
    """The error to raise for one that came out of an engine: where it arose, and what it says."""
    if isinstance(error, ImportError):
        elsewhere = (
            "Install it there" if CHILD in os.environ else "Run it where its dependencies are, with --runner-python"
        )
        text = (
            f"Runner {runner!r} needs a module that {sys.executable} cannot import ({error}). {elsewhere}; "
            "docs/runners.md says what an interpreter needs."
        )
    else:
        (*_, last) = traceback.extract_tb(error.__traceback__) or [traceback.FrameSummary("nowhere", 0, "")]
        said = " ".join(str(error).split())[:300]
        text = f"Runner {runner!r} failed at {Path(last.filename).name}:{last.lineno}: {type(error).__name__}: {said}"
    made = RunnerError(text)
    made.engine_traceback = "".join(traceback.format_exception(error))
    for note in getattr(error, "__notes__", ()):
        made.add_note(note)
    return made


def _opened(file: Path, name: str, weights: Weights, options: RunOptions) -> Runner:
    """A runner of a Python file that the user named. Raises: RunnerError if there is none, or it cannot be made."""
    module_name = f"parity_engine_{file.stem}"
    spec = importlib.util.spec_from_file_location(module_name, file)
    if not file.is_file() or spec is None or spec.loader is None:
        raise RunnerError(f"There is no file {file} with a runner in it; docs/runners.md shows one.")
    module = sys.modules[module_name] = importlib.util.module_from_spec(spec)
    if (beside := str(file.absolute().parent)) not in sys.path:
        sys.path.append(beside)  # last, so that nothing there takes the place of a library
    with opened(file, RunnerError, "docs/runners.md shows a runner"):
        pass
    try:
        with closed_input():
            spec.loader.exec_module(module)
            if not callable(getattr(module, name, None)):
                raise RunnerError(f"{file} has no class {name!r}; docs/runners.md shows what a runner is.")
            made: Runner = getattr(module, name)(weights, options)
            if (own := getattr(made, "name", None)) is not None:  # without one it cannot be run, only looked at
                require_own_name(own, f"{file}:{name}")
    except ParityError:
        raise
    except Exception as error:
        raise failed(f"{file}:{name}", error) from error
    return made
