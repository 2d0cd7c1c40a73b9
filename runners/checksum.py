"""Checksums of tensors by their bits, computed where the tensor lies, and the one hash of a whole checkpoint.

The checksum of a tensor is `mix(header + sum over i of mix(bits_i + golden * (i + 1)))` modulo 2^64, i the row-major
position: mixing value and position together makes it sensitive to order and sign, and a sum does not care how the
elements were cut into chunks or in which order a device adds them. Only eight bytes travel to the host.
"""

import hashlib
from collections.abc import Iterable

import torch
from torch import Tensor

from runners.errors import ShapeError
from runners.mix64 import GOLDEN, mix64_, signed64

_INTEGER_OF_BYTES = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
_CHUNK = 1 << 21  # elements; three int64 buffers of it stay within a large GPU's cache

WeightEntry = tuple[str, torch.dtype, tuple[int, ...], int]  # name, dtype, shape, checksum64


def checksum64(tensor: Tensor, *, chunk: int = _CHUNK) -> int:
    """Checksum of the bits of a tensor, its shape and its dtype; the same on every device and for every `chunk`.

    -0.0 differs from 0.0, and NaNs with different payloads differ.

    Args:
        tensor: any shape and strides; elements of 1, 2, 4 or 8 bytes.
        chunk: elements worked on at a time.
    Returns: an unsigned 64-bit integer.
    Raises: ShapeError for elements of another size.
    """
    integer = _INTEGER_OF_BYTES.get(tensor.element_size())
    if integer is None:
        raise ShapeError(
            f"checksum64 wants elements of 1, 2, 4 or 8 bytes; {tensor.dtype} has {tensor.element_size()}. "
            "View the tensor as a smaller dtype first, for example with torch.view_as_real."
        )
    header = hashlib.sha256(f"{tensor.dtype}:{tuple(tensor.shape)}".encode()).digest()[:8]
    total = torch.full((1,), signed64(int.from_bytes(header, "big")), dtype=torch.int64, device=tensor.device)
    bits = tensor.detach().reshape(-1).view(integer)
    chunk = max(1, min(chunk, bits.numel()))
    weights = torch.arange(1, chunk + 1, dtype=torch.int64, device=tensor.device).mul_(signed64(GOLDEN))
    words, scratch = torch.empty_like(weights), torch.empty_like(weights)
    for start in range(0, bits.numel(), chunk):
        part = bits[start : start + chunk]
        size = part.numel()
        torch.add(weights[:size], part, out=words[:size])
        words[:size].add_(signed64(GOLDEN * start))
        total += mix64_(words[:size], scratch[:size]).sum()
    return int(mix64_(total, torch.empty_like(total)).item()) & ((1 << 64) - 1)


def weight_entry(name: str, tensor: Tensor) -> WeightEntry:
    """The facts on one tensor that `weights_hash` needs."""
    return name, tensor.dtype, tuple(tensor.shape), checksum64(tensor)


def weights_hash(entries: Iterable[WeightEntry]) -> str:
    """Hash of a set of named tensors, in whatever order they come: 64 hexadecimal digits.

    Args:
        entries: (name, dtype, shape, checksum64) of every tensor, for example from `weight_entry`.
    """
    lines = sorted(
        f"{name} {dtype} {'x'.join(map(str, shape))} {checksum:016x}" for name, dtype, shape, checksum in entries
    )
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()
