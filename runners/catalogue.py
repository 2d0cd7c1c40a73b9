"""The runners there are, by name."""

from typing import Any

from runners.errors import RunnerError
from runners.protocol import Runner, RunOptions
from runners.weights import Weights

NAMES = ("official", "native", "diffusers")


def open_runner(
    name: str,
    weights: Weights,
    options: RunOptions,
    overrides: dict[str, Any] | None = None,
    command_line: dict[str, Any] | None = None,
) -> Runner:
    """A runner by name; imported only now, so that one can be used without what the others need.

    Args:
        name: one of NAMES.
        weights: the model's files.
        options: device, dtype, tier, single reference behaviours.
        overrides: pipeline options laid over the case's; native only.
        command_line: pipeline options given on the command line, laid over both; native only.
    Raises: RunnerError for another name, or options that the runner does not have.
    """
    if name == "native":
        from runners.native import NativeRunner

        return NativeRunner(weights, options, overrides, command_line)
    given = sorted(
        {**(overrides or {}), **{key: value for key, value in (command_line or {}).items() if value is not None}}
    )
    # Spelling out the official run's only way is no override of it.
    if given and not (given == ["disable_autocast"] and not overrides and (command_line or {})["disable_autocast"]):
        raise RunnerError(f"Runner {name!r} has no pipeline options ({', '.join(given)}); only the native runner has.")
    if name == "official":
        from runners.official import OfficialRunner

        return OfficialRunner(weights, options)
    if name == "diffusers":
        from runners.diffusers_port import DiffusersRunner

        return DiffusersRunner(weights, options)
    raise RunnerError(f"Unknown runner {name!r}; known are {', '.join(NAMES)}.")
