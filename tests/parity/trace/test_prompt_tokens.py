"""Prompts of engines that tap the window: as many tokens as native taps, and the same sketch."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from parity.cli.app import app
from parity.trace.file import read_trace
from parity.trace.prompt_tokens import prompt_tokens
from runners.case import Case
from runners.weights import WeightsFolder

pytestmark = pytest.mark.slow

ENGINE = """
from runners.native.runner import NativeRunner
from runners.ltx23.stages import text_encoding


class Windowed(NativeRunner):
    name = "windowed"

    def __init__(self, weights, options):
        super().__init__(weights, options)

    def run(self, case, progress):
        text_encoding.real_tokens = lambda hidden, mask: hidden  # taps what its text encoder fills
        return super().run(case, progress)
"""


def test_counts_are_those_of_the_tokens_with_the_one_that_begins_a_prompt(
    micro_weights: WeightsFolder, micro_case: Callable[..., Case]
) -> None:
    case = micro_case({"request.prompt": "", "request.negative_prompt": "~" * 2000})
    assert prompt_tokens(case, micro_weights) == {"text/pos/hidden": 1, "text/neg/hidden": 1024}  # cut at the window


def test_an_engine_that_taps_its_window_is_recorded_as_one_that_taps_real_tokens(
    tmp_path: Path, micro_weights: WeightsFolder, micro_case_text: str, warm: Path
) -> None:
    (tmp_path / "micro.toml").write_text(micro_case_text)
    (tmp_path / "engine.py").write_text(ENGINE)
    arguments = ["--case", tmp_path / "micro.toml", "--weights", micro_weights.folder, "--taps", "text/*", "--quiet"]
    taps = {}
    for name, more in (
        ("native", ["--runner", "native"]),
        ("child", ["--runner", f"{tmp_path / 'engine.py'}:Windowed", "--runner-python", warm]),
    ):
        said = CliRunner().invoke(app, [str(one) for one in ["run", *arguments, *more, "--out", tmp_path / name]])
        assert said.exit_code == 0, said.output
        taps[name] = read_trace(tmp_path / name)
    assert list(taps["native"]) == list(taps["child"]) == ["text/pos/hidden", "text/neg/hidden"]
    for name in taps["native"]:
        assert taps["native"][name].same_bits(taps["child"][name])
        assert torch.equal(taps["native"][name].buckets, taps["child"][name].buckets)
