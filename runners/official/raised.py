"""Official modules in a higher precision for a while; nothing is copied but weights, and those of one part alone."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn


@contextmanager
def raised(dtype: torch.dtype, *modules: nn.Module) -> Iterator[None]:
    """Hold the weights of modules in another dtype while inside; afterwards they are the very tensors of before.

    A copy of a module would copy its hooks, and what these hold on to, too. Nothing else may use it meanwhile, nor what
    shares its parameters.
    """
    weights = {id(one): one for module in modules for one in (*module.parameters(), *module.buffers())}
    kept = [(one, one.data) for one in weights.values() if one.is_floating_point()]
    try:
        for one, data in kept:
            one.data = data.to(dtype)
        yield
    finally:
        for one, data in kept:
            one.data = data
