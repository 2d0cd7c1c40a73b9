"""Passes on two devices: which go where, and that the run is the one of one device.

Mostly a CPU stands for both: everything moves, nothing runs beside. Two GPUs are measured by `bench/gpu.py speed`.
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from parity.trace.file import read_trace
from parity.trace.trace_writer import TraceWriter
from runners.case import Case
from runners.clock import Quiet
from runners.errors import ConfigError
from runners.ltx23.passes import passes_of_step
from runners.ltx23.stages.denoising import DenoisingStage
from runners.ltx23.stages.split_denoising import split_passes
from runners.native.runner import NativeRunner
from runners.protocol import Outcome, RunOptions
from runners.request import Guider
from runners.tap import listening
from runners.weights import WeightsFolder

CPU = torch.device("cpu")
ONE = RunOptions(device=CPU)
TWO = RunOptions(device=CPU, second_device=CPU)


def guider(**other: float) -> Guider:
    asked = {"cfg_scale": 3.0, "stg_scale": 1.0, "rescale_scale": 0.7, "modality_scale": 3.0, **other}
    return Guider(stg_blocks=(28,), **asked)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("changed", "first", "second"),
    [
        ({}, ["cond", "perturbed"], ["uncond", "isolated"]),  # 48 + 20 of 164 blocks against 96
        ({"stg_scale": 0.0}, ["cond", "isolated"], ["uncond"]),
        ({"modality_scale": 1.0}, ["cond", "perturbed"], ["uncond"]),
        ({"cfg_scale": 1.0, "modality_scale": 1.0}, ["cond", "perturbed"], []),
    ],
)
def test_passes_are_split_by_the_blocks_they_compute(
    changed: dict[str, float], first: list[str], second: list[str]
) -> None:
    passes = passes_of_step(0, guider(**changed), guider(**changed), negative_disables_skipped_modality=False)
    parts = split_passes(passes, 48)
    assert [[one.name for one in part] for part in parts] == [first, second]


def run(weights: WeightsFolder, case: Case, options: RunOptions, listener: Callable[[str, Tensor], None]) -> Outcome:
    with NativeRunner(weights, options) as runner, listening(listener):
        return runner.run(case, Quiet())


def test_a_run_on_two_devices_is_that_of_one(
    micro_weights: WeightsFolder, micro_case: Callable[..., Case], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = micro_case({"guidance.video.stg_blocks": [1], "guidance.audio.stg_blocks": [1]})
    computed: list[int] = []
    pass_by_pass = DenoisingStage.pass_by_pass

    def counted(stage: DenoisingStage, *call: object, **named: object) -> object:
        computed.append(id(stage.transformer))
        return pass_by_pass(stage, *call, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(DenoisingStage, "pass_by_pass", counted)
    found: dict[str, Outcome] = {}
    for name, options in (("one", ONE), ("two", TWO)):
        (tmp_path / name).mkdir()
        with TraceWriter(tmp_path / name) as writer:
            found[name] = run(micro_weights, case, options, writer)
    assert len(set(computed)) == 3  # the one, and a transformer for each of two devices
    for name in ("video_frames", "audio_waveform", "video_latent", "audio_latent"):
        assert torch.equal(getattr(found["one"], name), getattr(found["two"], name)), name
    one, two = (read_trace(tmp_path / name) for name in found)
    assert sorted(one) == sorted(two) and all(one[name].same_bits(two[name]) for name in one)
    assert found["two"].details["second_device"] == "cpu" and "second_device" not in found["one"].details


@pytest.mark.parametrize("options", [{"tier": "fast"}, {"second_device": torch.device("meta")}])
def test_a_second_device_takes_the_exact_tier_and_is_of_one_kind(
    options: dict[str, object], micro_weights: WeightsFolder, micro_case: Callable[..., Case]
) -> None:
    runner = NativeRunner(micro_weights, replace(TWO, **options))  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="exact tier, and is of the first one's kind"):
        runner.run(micro_case(), Quiet())


@pytest.mark.gpu
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_two_gpus_replay_their_graphs_beside_each_other_with_the_bits_of_one(
    micro_weights: WeightsFolder, micro_case: Callable[..., Case]
) -> None:
    case = micro_case({"request.num_inference_steps": 6})
    first, second = torch.device("cuda", 0), torch.device("cuda", 1)
    found = []
    for options in (RunOptions(device=first), RunOptions(device=first, second_device=second)):
        with NativeRunner(micro_weights, options) as runner:
            found.append(runner.run(case, Quiet()))
    one, two = found
    for name in ("video_frames", "audio_waveform", "video_latent", "audio_latent"):
        assert torch.equal(getattr(one, name), getattr(two, name)), name
    assert two.details["step_graphs"].count("5 steps replayed") == 2
