"""A comparison in a suite: what departs is held to the floors of the registry."""

from collections.abc import Callable
from pathlib import Path

import pytest

from parity.runs.folder import read_run
from parity.suite.suite import compare_line
from parity.taps.dataflow import Dataflow
from runners.case import Case
from tests.parity.made_up_limits import save_limits

TAP = "denoise/000/cond/block/01/video/ff"


@pytest.mark.parametrize(("floor", "beyond"), [(0.25, []), (0.0001, [TAP])])
def test_what_departs_is_held_to_the_floors_of_the_registry(
    floor: float,
    beyond: list[str],
    leave_run: Callable[..., Path],
    micro_case: Callable[..., Case],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PARITY_ROOT", str(tmp_path / "root"))
    for name in ("golden", "thresholds"):
        (tmp_path / "root" / name).mkdir(parents=True)
    save_limits(tmp_path / "root", Dataflow(micro_case(), 3), floor=floor)
    official, native = leave_run("official"), leave_run("native", runner="native", tier="fast", first=TAP, error=0.02)
    found = compare_line("native against official", read_run(official), read_run(native)).taps
    assert found is not None and found.traces.bit_different > 0
    assert [root.tap for root in found.divergence.roots] == beyond
