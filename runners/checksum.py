"""Checksums of tensors by their bits, computed where the tensor lies, and the one hash of a whole checkpoint.

The checksum of a tensor is `mix(header + sum over i of mix(bits_i + golden * (i + 1)))` modulo 2^64, i the row-major
position: mixing value and position together makes it sensitive to order and sign, and a sum does not care how the
elements were cut into chunks or in which order a device adds them. Only eight bytes travel to the host.
"""

import hashlib
from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from runners.errors import ShapeError
from runners.mix64 import GOLDEN, mix64, mix64_, signed64

_INTEGER_OF_BYTES = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
_CHUNK, _CUDA_CHUNK = 1 << 15, 1 << 21  # elements; three int64 buffers of them stay within the cache of a core or a GPU
_SMALL = 1 << 14  # elements of a tensor for which calling torch takes longer than computing
_TOGETHER = 1 << 15  # elements, at most, of small tensors that are worked on together

WeightEntry = tuple[str, torch.dtype, tuple[int, ...], int]  # name, dtype, shape, checksum64


def checksum64(tensor: Tensor, *, chunk: int | None = None) -> int:
    """Checksum of the bits of a tensor, its shape and its dtype; the same on every device and for every `chunk`.

    -0.0 differs from 0.0, and NaNs with different payloads differ.

    Args:
        tensor: any shape and strides; elements of 1, 2, 4 or 8 bytes.
        chunk: elements worked on at a time; None takes what fits the device.
    Returns: an unsigned 64-bit integer.
    Raises: ShapeError for elements of another size.
    """
    bits = _bits(tensor)
    total = torch.zeros((), dtype=torch.int64, device=tensor.device)
    chunk = max(1, min(chunk or (_CUDA_CHUNK if tensor.is_cuda else _CHUNK), bits.numel()))
    weights = _weights(chunk, tensor.device)
    words, scratch = torch.empty_like(weights), torch.empty_like(weights)
    for start in range(0, bits.numel(), chunk):
        part = bits[start : start + chunk]
        size = part.numel()
        torch.add(weights[:size], part, out=words[:size])
        words[:size].add_(signed64(GOLDEN * start))
        total += mix64_(words[:size], scratch[:size]).sum()
    return _with_header(tensor, int(total.item()))


def weight_entry(name: str, tensor: Tensor) -> WeightEntry:
    """The facts on one tensor that `weights_hash` needs."""
    return name, tensor.dtype, tuple(tensor.shape), checksum64(tensor)


def weight_entries(named: Iterable[tuple[str, Tensor]]) -> Iterator[WeightEntry]:
    """`weight_entry` of every tensor, in another order: small ones, all of one device, are worked on together."""
    small: list[tuple[str, Tensor]] = []
    for name, tensor in named:
        if tensor.numel() > _SMALL:
            yield weight_entry(name, tensor)
            continue
        small.append((name, tensor))
        if sum(one.numel() for _, one in small) > _TOGETHER:
            yield from _entries_together(small)
            small.clear()
    yield from _entries_together(small)


def _entries_together(named: list[tuple[str, Tensor]]) -> Iterator[WeightEntry]:
    """The entries of tensors whose words stand in one row, of which each has its part."""
    counts = [tensor.numel() for _, tensor in named]
    if not counts:
        return
    weights = _weights(max(counts), named[0][1].device)
    words = torch.cat([_bits(tensor).to(torch.int64) for _, tensor in named])
    words += torch.cat([weights[:count] for count in counts])
    running = mix64_(words, torch.empty_like(words)).cumsum(0)  # modulo 2^64, as their sum is
    ends = torch.tensor(counts, device=words.device).cumsum(0)
    at_ends = torch.nn.functional.pad(running, (1, 0))[ends]
    sums = at_ends.diff(prepend=at_ends.new_zeros(1)).tolist()
    for (name, tensor), total in zip(named, sums, strict=True):
        yield name, tensor.dtype, tuple(tensor.shape), _with_header(tensor, total)


def _bits(tensor: Tensor) -> Tensor:
    """The elements in a row, as integers. Raises: ShapeError."""
    integer = _INTEGER_OF_BYTES.get(tensor.element_size())
    if integer is None:
        raise ShapeError(
            f"checksum64 wants elements of 1, 2, 4 or 8 bytes; {tensor.dtype} has {tensor.element_size()}. "
            "View the tensor as a smaller dtype first, for example with torch.view_as_real."
        )
    return tensor.detach().reshape(-1).view(integer)


def _weights(count: int, device: torch.device) -> Tensor:
    """The number that each element's position adds to its word, int64 (count,)."""
    return torch.arange(1, count + 1, dtype=torch.int64, device=device).mul_(signed64(GOLDEN))


def _with_header(tensor: Tensor, words: int) -> int:
    """The checksum of a tensor by the sum of its mixed words."""
    header = hashlib.sha256(f"{tensor.dtype}:{tuple(tensor.shape)}".encode()).digest()[:8]
    return mix64(int.from_bytes(header, "big") + words)


def weights_hash(entries: Iterable[WeightEntry]) -> str:
    """Hash of a set of named tensors, in whatever order they come: 64 hexadecimal digits.

    Args:
        entries: (name, dtype, shape, checksum64) of every tensor, for example from `weight_entries`.
    """
    lines = sorted(
        f"{name} {dtype} {'x'.join(map(str, shape))} {checksum:016x}" for name, dtype, shape, checksum in entries
    )
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()
