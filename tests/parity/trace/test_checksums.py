"""Checksums of taps: what comes back is what was written, and a file of another form is refused."""

import lzma
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from parity.trace.checksums import CHECKSUMS_FILE, TapChecksums, read_checksums, tap_digest, write_checksums
from runners.errors import RunError

DIGESTS = {"decode/mel": -(1 << 63), "init/video": 5, "text/pos/hidden": (1 << 63) - 1}


@pytest.mark.parametrize("pattern", [None, "init/* denoise/000/*"])
def test_digests_are_read_back_in_the_order_written(tmp_path: Path, pattern: str | None) -> None:
    write_checksums(tmp_path, TapChecksums(digests=DIGESTS, pattern=pattern))
    found = read_checksums(tmp_path / CHECKSUMS_FILE, 9)
    assert list(found.digests.items()) == list(DIGESTS.items()) and found.pattern == pattern


def test_dtype_shape_and_checksum_each_make_another_digest() -> None:
    same = tap_digest("bfloat16", (2, 3), 7)
    assert tap_digest("bfloat16", (2, 3), 7) == same and -(1 << 63) <= same < 1 << 63
    others = {tap_digest("float32", (2, 3), 7), tap_digest("bfloat16", (3, 2), 7), tap_digest("bfloat16", (2, 3), -7)}
    assert len({same, *others}) == 4


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"digests": torch.zeros(2, dtype=torch.int64)}, "3 names for 2 taps"),
        ({"digests": torch.zeros(3)}, "digests are torch.float32"),
        ({"names": lzma.compress(b"a\nb\na")}, "3 names, 2 of them different"),
        ({"names": lzma.compress(b"a\nb\nc")[:-3]}, "3 names"),  # cut short
        ({"names": b"no archive"}, "is damaged"),
        ({"names": lzma.compress(b"\xff\n\n")}, "is damaged"),
    ],
)
def test_a_file_that_contradicts_itself_is_refused(tmp_path: Path, changes: dict[str, Any], complaint: str) -> None:
    good = {"digests": torch.tensor([1, 2, 3]), "names": lzma.compress(b"a\nb\nc")}
    columns = {
        name: torch.frombuffer(bytearray(value), dtype=torch.uint8) if isinstance(value, bytes) else value
        for name, value in (good | changes).items()
    }
    path = tmp_path / CHECKSUMS_FILE
    safetensors.torch.save_file(columns, path, metadata={"format": "parity-checksums-1"})
    with pytest.raises(RunError, match=complaint):
        read_checksums(path, 9)


def test_another_format_and_what_unpacks_to_too_much_are_refused(tmp_path: Path) -> None:
    path = tmp_path / CHECKSUMS_FILE
    safetensors.torch.save_file({"digests": torch.zeros(1)}, path, metadata={"format": "parity-checksums-2"})
    with pytest.raises(RunError, match="parity-checksums-1"):
        read_checksums(path, 9)
    write_checksums(tmp_path, TapChecksums(digests={"a" * (1 << 20): 1}))
    assert path.stat().st_size < 1000
    with pytest.raises(RunError, match="is damaged"):
        read_checksums(path, 4)  # a name of a megabyte is cut at 1024 bytes
    with pytest.raises(RunError, match="more than 256 characters"):
        read_checksums(path, 5000)
    write_checksums(tmp_path, TapChecksums(digests={f"{place}": place for place in range(99)}))
    with pytest.raises(RunError, match="has more than 256 bytes"):
        read_checksums(path, 1)
