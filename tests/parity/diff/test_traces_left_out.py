"""Taps of text that one of two traces holds with padding, and the goldens at full size, which do."""

from dataclasses import replace

import pytest
import torch

from parity.diff.comparable import flow_of
from parity.diff.traces import OmittedTaps, compare_traces
from parity.runs import golden
from parity.trace.file import TRACE_FILE, SketchTable, Trace, decode, read_trace

pytestmark = pytest.mark.slow

TEXT = ("text/pos/hidden", "text/neg/hidden")
LARGE = "ltx_2.3_one_stage_ti2v"


@pytest.mark.parametrize(
    ("padded", "said"),
    [
        (("reference",), "the reference was recorded"),
        (("candidate",), "the candidate was recorded"),
        (("reference", "candidate"), "the reference and the candidate were recorded"),
    ],
)
def test_it_says_which_taps_and_because_of_which_side(padded: tuple[str, ...], said: str) -> None:
    found = OmittedTaps(taps=TEXT, padded=padded)  # type: ignore[arg-type]
    assert found.words == f"text/pos/hidden and text/neg/hidden left out: {said} when they still held padding"
    assert OmittedTaps().words == ""


def without_padding(table: SketchTable) -> SketchTable:
    """A trace as runs leave it now, with the same bits but for its text: 45 tokens, all zero."""
    floats, integers, shapes = table.floats.clone(), table.integers.clone(), list(table.shapes)
    for tap in TEXT:
        row = table.names.index(tap)
        assert shapes[row] == (1, 1024, 3840, 49), "the golden holds all of the window"
        shapes[row] = (1, 45, 3840, 49)
        floats[row], integers[row] = 0, integers[row] ^ torch.tensor([7, 0, 0])
    return replace(table, padded_text=False, floats=floats, integers=integers, shapes=shapes)


@pytest.mark.parametrize("release", ["", "release_1.2.0_"])
@pytest.mark.parametrize(("case", "taps"), [(LARGE, 55092), (f"{LARGE}_25f", 55092), (f"{LARGE}_no_v2a", 50772)])
def test_a_golden_at_full_size_judges_a_run_of_today_by_all_taps_but_its_text(
    release: str, case: str, taps: int
) -> None:
    run = golden.golden_of(release + case)
    old = read_trace(run.folder)
    assert old.padded_text and len(old.bits) == taps
    table = decode((run.folder / TRACE_FILE).read_bytes(), origin="x")
    flow = flow_of(run, run, old)
    today = Trace(without_padding(table), old.checksums)
    for reference, candidate, side in ((old, today, "reference"), (today, old, "candidate")):
        found = compare_traces(reference, candidate, flow)
        assert found.left_out.taps == TEXT and found.left_out.padded == (side,)
        assert found.bit_equal and found.compared == taps - 2 and found.findings == ()
    wrong = without_padding(table)
    wrong.integers[table.names.index("connector/neg/audio"), 0] += 1
    moved = compare_traces(old, Trace(wrong, old.checksums), flow)
    assert [tap for tap in moved.taps if not moved.same_bits(tap)] == ["connector/neg/audio"]
    assert not compare_traces(today, Trace(wrong, old.checksums), flow).left_out.taps
