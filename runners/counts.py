"""Bounds on the counts of a model's configuration, which may come from a stranger and is otherwise built as it says.

Sizes cost nothing before the tensors are read: outlines are built without memory, and the tensors must fit them. Counts
cost time: a billion layers are a billion modules, in official code as in ours. So they are bounded where a folder is
opened, for every runner.
"""

from collections.abc import Mapping
from typing import Any, Final

from runners.errors import CheckpointError

MOST_PARTS: Final = 100  # layers or blocks of one kind, and entries of a list; taps name blocks by two digits
MOST_STAGES: Final = 32  # entries of a list of a vocoder, whose lists multiply
LARGEST_SIZE: Final = 1 << 31  # of any other whole number
_COUNTED: Final = ("layers", "blocks")
_LISTS_MULTIPLY: Final = "vocoder"


def require_counts(config: Mapping[str, Any], what: str) -> None:
    """Refuse a configuration that claims more parts than a model has.

    Args:
        config: JSON, in which keys of counts are named after what is counted, as in `num_layers`.
        what: what an error calls it.
    Raises: CheckpointError naming the key.
    """
    _require(config, what, "", MOST_PARTS)


def _require(value: Any, what: str, place: str, most: int) -> None:
    if isinstance(value, Mapping):
        for key, item in value.items():
            within = MOST_STAGES if key == _LISTS_MULTIPLY else most
            _require(item, what, f"{place}.{key}" if place else str(key), within)
    elif isinstance(value, list):
        if len(value) > most:
            raise CheckpointError(f"{what}: {place[:200]} has {len(value)} entries; a model has at most {most}.")
        for index, item in enumerate(value):
            _require(item, what, f"{place}.{index}", most)
    elif type(value) is int:
        counted = any(word in place.rpartition(".")[2] for word in _COUNTED)
        if abs(value) > (MOST_PARTS if counted else LARGEST_SIZE):
            raise CheckpointError(
                f"{what}: {place[:200]} is {value}; a model has at most {MOST_PARTS if counted else LARGEST_SIZE}."
            )
