"""Loading a component: from a source of named tensors into a module whose parameters keep the checkpoint's names.

Every component class says in `CHECKPOINT_PREFIXES` where its keys stand in the checkpoint, as module prefix to
checkpoint prefix; the longest matching module prefix wins. There is no table of renamed keys.
"""

from collections.abc import Iterable, Mapping
from typing import TypeVar

import torch
from torch import Tensor, nn

from runners.errors import CheckpointError
from runners.model_files import TensorSource

# In official files, but nothing in text and image to video reads them; further statistics stand beside the two used.
UNUSED_PREFIXES = ("audio_vae.encoder.", "audio_vae.per_channel_statistics.", "vae.per_channel_statistics.")
TRANSFORMER = "model.diffusion_model."  # where the transformer's weights stand in a checkpoint
LISTED = 10  # offending keys named in an error


ModuleT = TypeVar("ModuleT", bound=nn.Module)


def checkpoint_name(prefixes: Mapping[str, str], key: str) -> str:
    """The checkpoint's key of a module's key."""
    prefix = max((prefix for prefix in prefixes if key.startswith(prefix)), key=len)
    return prefixes[prefix] + key.removeprefix(prefix)


def expected_shapes(module: nn.Module, prefixes: Mapping[str, str]) -> dict[str, tuple[int, ...]]:
    """Checkpoint names and shapes that a module (on the meta device is enough) wants."""
    state = module.state_dict(keep_vars=True)
    return {checkpoint_name(prefixes, key): tuple(value.shape) for key, value in state.items()}


def verify(expected: Mapping[str, tuple[int, ...]], source: TensorSource, what: str) -> None:
    """Compare all wanted names and shapes with those there are.

    Raises: CheckpointError naming the first ten keys that are missing, left over, or of another shape.
    """
    there = source.shapes
    missing = sorted(expected.keys() - there.keys())
    extra = sorted(name for name in there.keys() - expected.keys() if not name.startswith(UNUSED_PREFIXES))
    shapes = [
        f"{name} is {there[name]} instead of {expected[name]}"
        for name in sorted(expected.keys() & there.keys())
        if there[name] != expected[name]
    ]
    problems = []
    for label, names in (("missing", missing), ("unknown", extra), ("of another shape", shapes)):
        if names:
            more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
            problems.append(f"{len(names)} {label}: {', '.join(names[:LISTED])}{more}")
    if problems:
        raise CheckpointError(
            f"The tensors of {what} do not fit its configuration: {'; '.join(problems)}. "
            "Take a checkpoint whose tensors and configuration belong together."
        )


def load(
    module: ModuleT,
    prefixes: Mapping[str, str],
    source: TensorSource,
    device: torch.device,
    dtype: torch.dtype,
) -> ModuleT:
    """Give a module built on the meta device its weights, in `dtype` on `device`, ready for inference.

    Parameters that the module keeps in a narrower dtype than any it computes in stay in that, and scales in theirs.
    Buffers that its state does not have stay where they are.

    Raises: CheckpointError if a tensor is missing or has another shape.
    """
    empty = module.state_dict(keep_vars=True)
    wanted = {key: checkpoint_name(prefixes, key) for key in empty}
    missing = [name for name in wanted.values() if name not in source.shapes]
    if missing:
        raise CheckpointError(f"{len(missing)} tensors are missing: {', '.join(missing[:LISTED])}.")
    stored = source.read(list(wanted.values()), device)
    # Popped one by one, so that the stored and the converted copy of a large model never stand side by side.
    weights = {
        key: stored.pop(name).to(empty[key].dtype if _keeps_its_own(empty[key]) else dtype)
        for key, name in wanted.items()
    }
    _check_shapes(empty.items(), weights)
    _put_in_place(module, empty, weights)
    return module.eval()


def _put_in_place(module: nn.Module, empty: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> None:
    """Give every parameter and buffer of a module's state its tensor; `load_state_dict` takes three times as long."""
    owners = dict(module.named_modules(remove_duplicate=False))
    for key, tensor in weights.items():
        owner, _, name = key.rpartition(".")
        held = nn.Parameter(tensor, requires_grad=False) if isinstance(empty[key], nn.Parameter) else tensor
        setattr(owners[owner], name, held)


def _keeps_its_own(parameter: Tensor) -> bool:
    """True for 8-bit numbers, and for the scale of a tensor."""
    return parameter.itemsize == 1 or parameter.ndim == 0


def _check_shapes(wanted: Iterable[tuple[str, Tensor]], weights: Mapping[str, Tensor]) -> None:
    for key, value in wanted:
        if value.shape != weights[key].shape:
            raise CheckpointError(f"{key} is {tuple(weights[key].shape)}; its configuration says {tuple(value.shape)}.")
