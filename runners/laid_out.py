"""Modules laid out: made on the meta device, where a tensor has a shape and no numbers, to be loaded afterwards.

A module draws first numbers for its parameters. On the meta device there are none to draw, yet each call goes through
Python and takes longer than making the module. Inside, such calls do nothing.
"""

import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import wraps
from typing import Any, Final
from unittest.mock import patch

import torch
from torch import Tensor
from torch.nn import init

_DRAWS: Final = ("uniform_", "normal_", "trunc_normal_", "ones_", "zeros_", "kaiming_uniform_", "xavier_uniform_")


@contextmanager
def laid_out() -> Iterator[None]:
    """While inside, modules are made on the meta device and draw nothing; what is made elsewhere draws as ever."""
    transformers = sys.modules.get("transformers.modeling_utils")
    with ExitStack() as stack:
        for name in _DRAWS:
            stack.enter_context(patch.object(init, name, _drawing_elsewhere(getattr(init, name))))
        if transformers is not None:
            kind = transformers.PreTrainedModel  # which draws by itself, once it is whole
            drawing = _initializing_elsewhere(kind.initialize_weights)
            stack.enter_context(patch.object(kind, "initialize_weights", drawing))
        stack.enter_context(torch.device("meta"))
        yield


def _drawing_elsewhere(draw: Callable[..., Tensor]) -> Callable[..., Tensor]:
    @wraps(draw)
    def drawn(tensor: Tensor, *how: Any, **named: Any) -> Tensor:
        return tensor if tensor.is_meta else draw(tensor, *how, **named)

    return drawn


def _initializing_elsewhere(initialize: Callable[[Any], None]) -> Callable[[Any], None]:
    def initialized(model: Any) -> None:
        if any(not parameter.is_meta for parameter in model.parameters()):
            initialize(model)

    return initialized
