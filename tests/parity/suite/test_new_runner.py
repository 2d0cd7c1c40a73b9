"""A runner from the template runs as it is, is at parity, and stays where it was put."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from parity.cli.app import app
from parity.explain.runner_check import check_run, hear, switch_flaws
from parity.suite.new_runner import write_runner
from parity.taps.dataflow import Dataflow
from runners.case import Case
from runners.catalogue import open_runner
from runners.errors import RunnerError
from runners.native.runner import NativeRunner
from runners.protocol import RunOptions
from runners.weights import WeightsFolder, num_blocks

OPTIONS = RunOptions(device=torch.device("cpu"))
FLAG = "switches.skip_v2a_cross_attn_for_video_gt"


def test_what_is_written_has_every_bit_of_native_and_turns_v2a_off(
    micro_weights: WeightsFolder, micro_case: Callable[..., Case], tmp_path: Path
) -> None:
    written = CliRunner().invoke(app, ["new-runner", "my_engine", "--out", str(tmp_path / "made")])
    assert written.exit_code == 0 and "my_engine.py:MyEngine" in written.stdout.replace("\n", "")
    assert {path.name for path in (tmp_path / "made").iterdir()} == {"my_engine.py", "test_my_engine.py", "README.md"}
    engine = open_runner(f"{tmp_path}/made/my_engine.py:MyEngine", micro_weights, OPTIONS)
    case = micro_case({"request.images": [{"path": "coffee.jpg"}]})
    heard, truth = hear(engine, case), hear(NativeRunner(micro_weights, OPTIONS), case)
    flow = Dataflow(case, num_blocks(micro_weights))
    flaws, worst = check_run(heard, truth, engine.capabilities, case, flow, micro_weights.config)
    assert flaws == [] and worst is not None and worst[1] == 0 and set(heard.taps) == set(flow.taps)
    assert torch.equal(heard.outcome.audio_waveform, truth.outcome.audio_waveform)
    off = hear(engine, micro_case({"request.images": [{"path": "coffee.jpg"}], FLAG: True}))
    assert switch_flaws(FLAG, heard, off) == []


def test_a_name_that_is_none_or_taken_and_a_file_that_is_there_are_refused(tmp_path: Path) -> None:
    for name in ("native", "official", "My_Engine", "9lives", "../x", "class", "a" * 41, ""):
        with pytest.raises(RunnerError, match="cannot be the name of a runner"):
            write_runner(name, tmp_path)
    (tmp_path / "test_mine.py").write_text("kept")
    with pytest.raises(RunnerError, match=r"test_mine.py is there already"):
        write_runner("mine", tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["test_mine.py"]
