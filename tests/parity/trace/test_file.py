import json
import math
import struct
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from parity.trace.checksums import TapChecksums, write_checksums
from parity.trace.file import TRACE_FILE, TRACE_JOURNAL, SketchTable, Trace, decode, encode, read_trace, write_trace
from parity.trace.journal import JournalWriter
from parity.trace.sketch import sketch
from runners.errors import RunError


def small_table(names: list[str], **changes: Any) -> SketchTable:
    generator = torch.Generator().manual_seed(len(names))
    fields: dict[str, Any] = {
        "buckets": 16,
        "names": names,
        "shapes": [(2, 3 + index % 2) for index in range(len(names))],
        "dtypes": ["bfloat16", "float32", "bfloat16", "float32"][: len(names)],
        "floats": torch.randn(len(names), 19, generator=generator),
        "integers": torch.randint(-(2**62), 2**62, (len(names), 3), generator=generator),
    }
    return SketchTable(**{**fields, **changes})


def assert_same(one: SketchTable, other: SketchTable) -> None:
    assert torch.equal(one.floats, other.floats) and torch.equal(one.integers, other.integers)
    assert (one.names, one.shapes, one.dtypes) == (other.names, other.shapes, other.dtypes)
    assert (one.buckets, one.pattern, one.complete) == (other.buckets, other.pattern, other.complete)
    assert one.padded_text == other.padded_text


@pytest.mark.parametrize(
    "table",
    [
        small_table(["b/1", "a/2", "ä"]),
        small_table([]),
        small_table(["x"], pattern="denoise/*", complete=False),
        small_table(["scalar"], shapes=[()]),
        small_table(["text/pos/hidden"], padded_text=True),
    ],
)
def test_a_table_comes_back_as_it_was(table: SketchTable, tmp_path: Path) -> None:
    assert_same(decode(encode(table), origin="memory"), table)
    write_trace(tmp_path, table)
    trace = read_trace(tmp_path)
    assert list(trace) == table.names and trace.complete == table.complete and trace.pattern == table.pattern


def test_a_trace_maps_names_to_sketches_in_the_order_recorded(tmp_path: Path) -> None:
    tensors = [torch.randn(3, 5).bfloat16(), torch.full((7,), torch.inf), torch.arange(4)]
    sketches = [sketch(tensor, buckets=32) for tensor in tensors]
    table = SketchTable(
        buckets=32,
        names=["z", "a", "m"],
        shapes=[s.shape for s in sketches],
        dtypes=[s.dtype for s in sketches],
        floats=torch.stack([torch.cat((s.buckets, torch.tensor([s.l2, s.max_abs, s.mean]))) for s in sketches]),
        integers=torch.tensor([[s.checksum, s.nan_count, s.inf_count] for s in sketches]),
    )
    write_trace(tmp_path, table)
    trace = read_trace(tmp_path)
    assert list(trace) == ["z", "a", "m"] and len(trace) == 3 and trace.buckets == 32
    for name, expected in zip(trace, sketches, strict=True):
        found = trace[name]
        assert found.same_bits(expected) and torch.equal(found.buckets, expected.buckets)
        assert (found.l2, found.max_abs, found.mean) == (expected.l2, expected.max_abs, expected.mean)
        assert (found.nan_count, found.inf_count) == (expected.nan_count, expected.inf_count)
    assert trace["a"].inf_count == 7
    with pytest.raises(KeyError):
        trace["missing"]


def test_the_default_case_fits_in_25_megabytes() -> None:
    names = [
        f"denoise/{step:03d}/{guidance}/block/{block:02d}/{stream}/{part}"
        for step in range(30)
        for guidance in ("cond", "uncond", "perturbed", "isolated")
        for block in range(48)
        for stream in ("video", "audio")
        for part in ("self_attn", "text_attn", "av_attn", "ff", "out")
    ]
    count = len(names)
    table = SketchTable(
        buckets=64,
        names=names,
        shapes=[(1, 6144, 4096), (1, 126, 2048)] * (count // 2),
        dtypes=["bfloat16"] * count,
        floats=torch.zeros(count, 67),
        integers=torch.zeros(count, 3, dtype=torch.int64),
    )
    assert count == 57_600
    assert len(encode(table)) <= 25_000_000


def rewritten(data: bytes, columns: dict[str, Any] | None = None, metadata: dict[str, str] | None = None) -> bytes:
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])["__metadata__"]
    tensors = safetensors.torch.load(data) | (columns or {})
    kept = {name: tensor for name, tensor in tensors.items() if tensor is not None}
    return bytes(safetensors.torch.save(kept, metadata=header | (metadata or {})))


@pytest.mark.parametrize(
    "columns",
    [
        {"l2": None},
        {"l2": torch.zeros(3)},
        {"l2": torch.zeros(2, dtype=torch.float64)},
        {"buckets": torch.zeros(2, 15)},
        {"checksum": torch.zeros(2, dtype=torch.int32)},
        {"shape_index": torch.tensor([0, 9], dtype=torch.int32)},
        {"shape_index": torch.tensor([0, -1], dtype=torch.int32)},
        {"dtype_index": torch.tensor([0, 200], dtype=torch.uint8)},
        {"names": torch.tensor(list(b"one"), dtype=torch.uint8)},
        {"names": torch.tensor(list(b"a\nb\nc"), dtype=torch.uint8)},
        {"names": torch.tensor(list(b"a\na"), dtype=torch.uint8)},
        {"names": torch.tensor([255, 10, 255], dtype=torch.uint8)},
    ],
)
def test_columns_that_contradict_each_other_are_refused(columns: dict[str, Any]) -> None:
    with pytest.raises(RunError, match="somewhere"):
        decode(rewritten(encode(small_table(["a", "b"])), columns=columns), origin="somewhere")


@pytest.mark.parametrize(
    "metadata",
    [
        {"format": "parity-trace-2"},
        {"sketch_version": "2"},
        {"bucket_count": "32"},
        {"bucket_count": "-16"},
        {"bucket_count": "x"},
        {"shapes": "[[2, -3], [2, 4]]"},
        {"shapes": "[[2, 1e9], [2, 4]]"},
        {"shapes": "7"},
        {"dtypes": "{"},
        {"pattern": "5"},
    ],
)
def test_metadata_that_lies_is_refused(metadata: dict[str, str]) -> None:
    with pytest.raises(RunError, match="somewhere"):
        decode(rewritten(encode(small_table(["a", "b"])), metadata=metadata), origin="somewhere")


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"1234567",
        struct.pack("<Q", 2**62) + b"{}",
        struct.pack("<Q", 2) + b"{}",
        encode(small_table(["a"]))[:-1],
        encode(small_table(["a"])) + b"x",
    ],
)
def test_damaged_files_are_refused_by_name(data: bytes, tmp_path: Path) -> None:
    (tmp_path / TRACE_FILE).write_bytes(data)
    with pytest.raises(RunError, match=TRACE_FILE):
        read_trace(tmp_path)


def journal(folder: Path, tables: list[SketchTable]) -> None:
    with JournalWriter(folder / TRACE_JOURNAL) as writer:
        for table in tables:
            writer.append(encode(table))


def test_a_journal_alone_is_read_and_marked_incomplete(tmp_path: Path) -> None:
    journal(tmp_path, [small_table([]), small_table(["a", "b"]), small_table(["c"])])
    trace = read_trace(tmp_path)
    assert list(trace) == ["a", "b", "c"] and not trace.complete
    path = tmp_path / TRACE_JOURNAL
    path.write_bytes(path.read_bytes()[:-1])
    assert list(read_trace(tmp_path)) == ["a", "b"]


@pytest.mark.parametrize(
    "tables",
    [
        [],
        [small_table(["a"]), small_table(["a"])],
        [small_table([]), small_table([], buckets=32, floats=torch.empty(0, 35))],
        [small_table([]), small_table([], pattern="*")],
    ],
)
def test_a_journal_whose_tables_do_not_form_one_trace_is_refused(tables: list[SketchTable], tmp_path: Path) -> None:
    journal(tmp_path, tables)
    with pytest.raises(RunError, match=TRACE_JOURNAL):
        read_trace(tmp_path)


def test_clean_bits_are_of_taps_with_elements_that_are_all_finite() -> None:
    table = small_table(["good", "nan", "inf", "sum", "none"], dtypes=["float32"] * 5)
    table.integers[:, 1:] = 0
    table.integers[1, 1] = table.integers[2, 2] = 1
    table.floats[3, 5] = math.inf  # sums overflowed
    table.shapes[4] = (0, 3)
    assert Trace(table).clean_bits == {"good": ((2, 3), "float32", int(table.integers[0, 0]))}


def test_checksums_beside_a_trace_know_more_taps_and_must_agree_with_its_sketches(tmp_path: Path) -> None:
    write_trace(tmp_path, small_table(["init/video", "decode/mel"]))
    bits = dict(read_trace(tmp_path).bits)
    assert list(bits) == ["init/video", "decode/mel"] and read_trace(tmp_path).checksums is None
    write_checksums(tmp_path, TapChecksums(digests={**bits, "init/audio": 5}, pattern="init/* decode/*"))
    found = read_trace(tmp_path)
    assert (found.pattern, found.pattern_of_bits) == (None, "init/* decode/*")
    assert dict(found.bits) == {**bits, "init/audio": 5} and "init/audio" not in found
    for wrong in ({**bits, "decode/mel": 5}, {"init/video": bits["init/video"]}):
        write_checksums(tmp_path, TapChecksums(digests=wrong))
        with pytest.raises(RunError, match="another checksum of decode/mel"):
            read_trace(tmp_path)


def test_a_folder_without_a_trace_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="neither"):
        read_trace(tmp_path)


def with_metadata(data: bytes, **changes: str | None) -> bytes:
    """A trace's bytes with keys of the metadata changed, or taken out by None."""
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    metadata = {**header["__metadata__"], **changes}
    header["__metadata__"] = {key: value for key, value in metadata.items() if value is not None}
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data[8 + length :]


def test_a_trace_that_does_not_say_that_its_text_is_of_real_tokens_holds_padding(tmp_path: Path) -> None:
    data = encode(small_table(["text/pos/hidden", "init/video"]))
    assert not decode(data, origin="x").padded_text
    assert decode(with_metadata(data, text_tokens=None), origin="x").padded_text, "as earlier versions wrote it"
    with pytest.raises(RunError, match="'all' tokens of text"):
        decode(with_metadata(data, text_tokens="all"), origin="x")
    (tmp_path / TRACE_FILE).write_bytes(with_metadata(data, text_tokens=None))
    old = read_trace(tmp_path)
    assert old.padded_text and old.part("text/*").padded_text, "a golden made of it says so too"


def test_a_journal_of_both_kinds_of_text_is_no_trace(tmp_path: Path) -> None:
    with JournalWriter(tmp_path / TRACE_JOURNAL) as journal:
        journal.append(encode(small_table(["text/pos/hidden"], padded_text=True)))
        journal.append(encode(small_table(["init/video", "init/audio"])))
    with pytest.raises(RunError, match="do not form one trace"):
        read_trace(tmp_path)
