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
from safetensors import SafetensorError

from parity.trace.atomic import write_bytes_atomic
from runners.errors import RunError

CHECKSUMS_FILE: Final = "checksums.safetensors"
MAX_BYTES: Final = 64 << 20  # of the file
MAX_NAMES_BYTES: Final = 64 << 20  # unpacked
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


def read_checksums(path: Path) -> TapChecksums:
    """The checksums that `write_checksums` wrote. Raises: RunError for a file that has not this form."""
    if path.stat().st_size > MAX_BYTES:
        raise RunError(f"{path} has {path.stat().st_size} bytes; at most {MAX_BYTES} are read. Restore the golden.")
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            if metadata.get("format") != _FORMAT:
                raise RunError(f"{path} is not in the form {_FORMAT!r}, the only one this program reads.")
            digests, packed = file.get_tensor("digests"), file.get_tensor("names")
        if (digests.dtype, digests.ndim) != (torch.int64, 1) or (packed.dtype, packed.ndim) != (torch.uint8, 1):
            raise ValueError(f"digests are {digests.dtype} {tuple(digests.shape)}, names {packed.dtype}")
        unpack = lzma.LZMADecompressor(format=lzma.FORMAT_XZ, memlimit=MAX_MEMORY_BYTES)
        names = unpack.decompress(packed.numpy().tobytes(), MAX_NAMES_BYTES).decode().split("\n")
        if not unpack.eof or len(set(names)) != len(names) or len(names) != digests.numel():
            raise ValueError(f"{len(names)} names, {len(set(names))} of them different, for {digests.numel()} digests")
    except (SafetensorError, OSError, ValueError, lzma.LZMAError) as error:
        raise RunError(f"{path} is damaged ({error}); restore the golden.") from error
    return TapChecksums(digests=dict(zip(names, digests.tolist(), strict=True)), pattern=metadata.get("pattern"))
