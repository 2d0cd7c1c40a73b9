"""Engines in environments of their own refuse a case here, before a process is started or a weight is read."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from parity.runs.child import ChildRunner
from parity.runs.execute import run_to_folder
from runners.case import Case
from runners.catalogue import open_runner
from runners.clock import Quiet
from runners.errors import RunnerError
from runners.names import OWN_ENVIRONMENT
from runners.protocol import RunOptions
from runners.weights import WeightsFolder

MakeCase = Callable[..., Case]
BF16 = RunOptions(device=torch.device("cpu"))
SAME_BLOCKS = {"guidance.audio.stg_blocks": [1]}
ENGINES_CODE = {"sglang", "comfy", "nodes"}


@pytest.mark.parametrize(
    ("name", "overrides", "options", "what"),
    [
        ("comfyui", {"request.frame_rate": 29.97}, {}, "its nodes take whole numbers"),
        ("comfyui", {"switches.disable_autocast": False}, {}, "does not understand disable_autocast = false"),
        (
            "comfyui",
            SAME_BLOCKS,
            {"engine": {"noise": "mine"}},
            "noise=mine is none of ComfyUI's; take own or official",
        ),
        ("comfyui", SAME_BLOCKS, {}, "name it with --engine-root"),
        ("sglang", {"request.frame_rate": 29.97}, {}, "SGLang takes whole numbers"),
        ("sglang", {"reference": "1.2.0"}, {}, "does not run reference release '1.2.0'"),
        ("sglang", {}, {"engine": {"quality": "high"}}, "quality=high is none of SGLang's; take exact or lossless"),
        ("official", {"reference": "1.2.0"}, {}, "does not run reference release '1.2.0'"),
        ("sglang", {}, {"engine": {"speed": "2"}}, "has no --engine-option speed; it has autocast, quality"),
    ],
)
def test_an_engine_refuses_before_a_process_is_started_or_weights_are_read(
    name: str,
    overrides: Any,
    options: Any,
    what: str,
    micro_case: MakeCase,
    tiny_weights: WeightsFolder,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(type(tiny_weights), "hash", property(lambda _: pytest.fail("the weights were hashed")))
    asked = RunOptions(device=BF16.device, **options)
    nowhere = tmp_path / "there-is-no-python"
    child = ChildRunner(python=nowhere, name=name, weights=tiny_weights, options=asked, beside=tmp_path / "run")
    with pytest.raises(RunnerError, match=what):
        run_to_folder(child, micro_case(overrides), tiny_weights, asked, tmp_path / "run", Quiet())
    assert not ENGINES_CODE & sys.modules.keys()


def test_opening_an_engine_imports_nothing_of_it(tiny_weights: WeightsFolder) -> None:
    for name in sorted(OWN_ENVIRONMENT):
        assert open_runner(name, tiny_weights, BF16).name == name
    assert not ENGINES_CODE & sys.modules.keys()
    with pytest.raises(RunnerError, match="takes no --engine-root; only the comfyui runner does"):
        open_runner("sglang", tiny_weights, BF16, engine_root=Path())
