"""The runners there are, by name, and others by the file they are in."""

import importlib.util
import sys
from pathlib import Path
from typing import Any

from runners.errors import RunnerError
from runners.protocol import Runner, RunOptions
from runners.weights import Weights

NAMES = ("official", "native", "diffusers", "sglang")


def open_runner(
    name: str,
    weights: Weights,
    options: RunOptions,
    overrides: dict[str, Any] | None = None,
    command_line: dict[str, Any] | None = None,
    official_root: Path | None = None,
) -> Runner:
    """A runner by name; imported only now, so that one can be used without what the others need.

    Args:
        name: one of NAMES, or FILE.py:CLASS for an engine of one's own; the class is called with weights and options.
        weights: the model's files.
        options: device, dtype, tier, single reference behaviours.
        overrides: pipeline options laid over the case's; native only.
        command_line: pipeline options given on the command line, laid over both; native only.
        official_root: root of a checkout of the official code, in place of what is installed; official only.
    Raises: RunnerError for another name, or options that the runner does not have.
    """
    if official_root is not None and name != "official":
        raise RunnerError(f"Runner {name!r} takes no --official-root; only the official runner does.")
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
    file, colon, engine = name.rpartition(":")
    if colon and file.endswith(".py"):
        made: Runner = _class_in(Path(file), engine)(weights, options)
        return made
    raise RunnerError(f"Unknown runner {name!r}; known are {', '.join(NAMES)}, or FILE.py:CLASS for one of your own.")


def _class_in(file: Path, name: str) -> Any:
    """A class of a Python file that the user named. Raises: RunnerError if there is no such file or class."""
    module_name = f"parity_engine_{file.stem}"
    spec = importlib.util.spec_from_file_location(module_name, file)
    if not file.is_file() or spec is None or spec.loader is None:
        raise RunnerError(f"There is no file {file} with a runner in it; docs/runners.md shows one.")
    module = sys.modules[module_name] = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except ImportError as error:
        raise RunnerError(
            f"{file} cannot be imported here ({error}); run it where its dependencies are, with --runner-python."
        ) from error
    if not callable(getattr(module, name, None)):
        raise RunnerError(f"{file} has no class {name!r}; docs/runners.md shows what a runner is.")
    return getattr(module, name)
