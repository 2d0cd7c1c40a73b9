"""Names of runners, and the taps that they owe; imports nothing, so that a mistyped name is told at once."""

from collections.abc import Mapping
from typing import Final

from runners.errors import RunnerError
from runners.nearest import did_you_mean

# Every known runner, and the pattern of the taps that it owes: a verdict asks this table, since what a run says of its
# own runner is the word of whoever made the run.
TAPS_OWED: Final[Mapping[str, str]] = dict.fromkeys(("official", "native", "diffusers", "sglang", "comfyui"), "*")
NAMES: Final = tuple(TAPS_OWED)
OWN_ENVIRONMENT: Final = frozenset({"sglang", "comfyui"})  # engines that run in a child process only, where installed
NAME: Final = r"(?=.*[a-z0-9])[a-z0-9_.-]{1,40}"  # what a runner may be called


def require_named(name: str) -> None:
    """Refuse what is neither a known runner nor FILE.py:CLASS, there or not. Raises: RunnerError."""
    file, colon, _ = name.rpartition(":")
    if name not in NAMES and not (colon and file.endswith(".py")):
        raise RunnerError(
            f"Unknown runner {name!r}; known are {', '.join(NAMES)}, or FILE.py:CLASS for one of your own."
            f"{did_you_mean(name, NAMES)}"
        )
