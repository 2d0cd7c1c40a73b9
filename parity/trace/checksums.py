"""The bits of taps in eight bytes each: what a golden keeps of those whose sketches it has no room for.

Axes: N tap, in the order recorded.

`checksums.safetensors` holds `digests` int64 (N,) and `names` uint8, the tap names joined by newlines and packed by
xz; its metadata say which pattern chose the taps, none meaning every tap. A digest stands for a tap's dtype, shape and
checksum: equal ones mean equal bits, and of unequal ones nothing more is known than that. 55,092 taps take 0.5 MB, and
their sketches 18.6 MB.
"""

import hashlib
import lzma
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import safetensors.torch
import torch

from parity.taps.pattern import MAX_LENGTH
from parity.trace.atomic import write_bytes_atomic
from runners.errors import RunError
from runners.files import HeldFile, opened_tensors

CHECKSUMS_FILE: Final = "checksums.safetensors"
BYTES_PER_TAP: Final = 256  # of the file, ten times what one takes
NAME_BYTES: Final = 256  # of a tap's name, unpacked
MAX_MEMORY_BYTES: Final = 256 << 20  # that unpacking may take
_FORMAT: Final = "parity-checksums-1"


@dataclass(frozen=True, kw_only=True)
class TapChecksums:
    """Digests by tap, in the order recorded. `pattern` chose the taps; None means all of them."""

    digests: Mapping[str, int]
    pattern: str | None = None


def tap_digest(dtype: str, shape: tuple[int, ...], checksum: int) -> int:
    """The checksum that a file keeps of one tap, a signed 64-bit integer."""
    text = f"{dtype} {tuple(shape)} {checksum}"
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little", signed=True)


def write_checksums(folder: Path, checksums: TapChecksums) -> None:
    """Write `checksums.safetensors`, whole or not at all."""
    names = bytearray(lzma.compress("\n".join(checksums.digests).encode(), preset=9))
    columns = {
        "digests": torch.tensor(list(checksums.digests.values()), dtype=torch.int64),
        "names": torch.frombuffer(names, dtype=torch.uint8),
    }
    metadata = {"format": _FORMAT} | ({} if checksums.pattern is None else {"pattern": checksums.pattern})
    data: bytes = safetensors.torch.save(columns, metadata=metadata)
    write_bytes_atomic(folder / CHECKSUMS_FILE, data)


def read_checksums(path: Path | HeldFile, most_taps: int) -> TapChecksums:
    """The checksums that `write_checksums` wrote, of at most so many taps.

    Raises: RunError for a file that has not this form.
    """
    with opened_tensors(path, RunError, "restore the golden", max_bytes=most_taps * BYTES_PER_TAP) as file:
        metadata = file.metadata() or {}
        if metadata.get("format") != _FORMAT:
            raise RunError(f"{path} is not in the form {_FORMAT!r}, the only one this program reads.")
        if len(metadata.get("pattern", "")) > MAX_LENGTH:
            raise RunError(f"{path} names a pattern of more than {MAX_LENGTH} characters; restore the golden.")
        digests, packed = file.get_tensor("digests"), file.get_tensor("names")
    try:
        if (digests.dtype, digests.ndim) != (torch.int64, 1) or (packed.dtype, packed.ndim) != (torch.uint8, 1):
            raise ValueError(f"digests are {digests.dtype} {tuple(digests.shape)}, names {packed.dtype}")
        unpack = lzma.LZMADecompressor(format=lzma.FORMAT_XZ, memlimit=MAX_MEMORY_BYTES)
        names = names_of(unpack.decompress(packed.numpy().tobytes(), most_taps * NAME_BYTES), digests.numel())
        if not unpack.eof or len(set(names)) != len(names):
            raise ValueError(f"{len(names)} names, {len(set(names))} of them different")
    except (ValueError, lzma.LZMAError) as error:
        raise RunError(f"{path} is damaged ({error}); restore the golden.") from error
    return TapChecksums(digests=dict(zip(names, digests.tolist(), strict=True)), pattern=metadata.get("pattern"))


def names_of(joined: bytes, count: int) -> list[str]:
    """So many tap names, joined by newlines. Raises: ValueError for another number of them, or one too long."""
    if (lines := joined.count(b"\n") + 1) != max(count, 1):  # before a list of them is made
        raise ValueError(f"{lines} names for {count} taps")
    names = joined.decode().split("\n") if count else []
    if any(len(name) > NAME_BYTES for name in names):
        raise ValueError(f"the name of a tap has more than {NAME_BYTES} characters")
    return names
