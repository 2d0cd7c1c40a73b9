"""The tensors an engine really loaded: a sample of the checkpoint's, looked for by value among those of its modules.

An engine renames and fuses parameters, so names do not lead from one to the other, but no value may change. A component
that was filled from elsewhere (another overlay's vocoder, for one) holds none of them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import gcd
from typing import Any

import torch
from torch import Tensor, nn

from runners.model_files import TensorSource

SAMPLED = 12  # tensors of a component, evenly over its names


@dataclass(frozen=True, kw_only=True)
class WeightSample:
    """The part of a sample that was found in a module."""

    sampled: int
    missing: tuple[str, ...]  # checkpoint names whose values are nowhere

    def document(self) -> dict[str, Any]:
        """As a run records it."""
        return {"sampled": self.sampled, "missing": list(self.missing)}


def look_for(module: nn.Module, source: TensorSource, names: Sequence[str]) -> WeightSample:
    """Look for a sample of named tensors in a module, whole or as rows of a larger one.

    Args:
        module: of an engine, in whatever dtype; values are compared in its dtype.
        source: of the checkpoint.
        names: that fill the module, in any order.
    """
    ordered = sorted(names)
    stride = max(1, -(-len(ordered) // SAMPLED))
    sample = ordered[::stride]
    held = list(module.state_dict().values())
    values = source.read(sample, torch.device("cpu"))
    missing = tuple(name for name in sample if not any(_holds(tensor, values[name]) for tensor in held))
    return WeightSample(sampled=len(sample), missing=missing)


def others(found: Mapping[str, WeightSample]) -> list[str]:
    """A phrase for each component that holds other tensors than the checkpoint."""
    return [
        f"{component} holds other values than the checkpoint for {len(loaded.missing)} of {loaded.sampled} tensors "
        f"looked for, such as {loaded.missing[0]}"
        for component, loaded in found.items()
        if loaded.missing
    ]


def _holds(tensor: Tensor, value: Tensor) -> bool:
    if tensor.ndim != value.ndim or tensor.shape[1:] != value.shape[1:] or tensor.ndim == 0:
        return tensor.ndim == 0 and value.ndim == 0 and bool(tensor == value.to(tensor))
    rows, wanted = tensor.shape[0], value.shape[0]
    if rows < wanted:
        return False
    sought = value.to(device=tensor.device, dtype=tensor.dtype)
    step = gcd(rows, wanted)  # parts of a fused parameter begin at multiples of it
    return any(torch.equal(tensor[start : start + wanted], sought) for start in range(0, rows - wanted + 1, step))
