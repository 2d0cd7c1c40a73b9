"""diffusers in two stages: its taps but for the second picture, the same model from the same noise, and a verdict."""

import importlib
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch
from torch import Tensor

from parity.explain.diagnosis import diagnose
from parity.judge.gate import calibrated_floors, gate
from parity.runs.execute import run_to_folder, writing_trace
from parity.runs.folder import read_run
from parity.runs.golden import find_case, golden_of
from parity.trace.file import read_trace
from runners.case import Case
from runners.clock import Clock, Quiet
from runners.diffusers.lora import PEFT_VERSION
from runners.diffusers.runner import NOT_OFFERED, DiffusersRunner
from runners.diffusers.two_stages import in_two_stages
from runners.errors import CheckpointError, RunnerError
from runners.model_files import TensorSource
from runners.native.runner import NativeRunner
from runners.official.runner import OfficialRunner
from runners.protocol import RunOptions
from runners.weights import WeightsFolder
from tests.runners.diffusers.test_runner import MAPPABLE, PICTURE, relative_l2
from tests.runners.native.test_exact_tier import DISTILLED, TWO_STAGE

CPU = torch.device("cpu")
GUIDED_FIRST = TWO_STAGE | MAPPABLE | {"stages.second.lora_strength": 0.7}
BF16, FP32 = RunOptions(device=CPU), RunOptions(device=CPU, dtype=torch.float32)


class InFp32:
    """A LoRA whose factors are fp32, so that fusing them rounds no product to bf16, as peft rounds none."""

    def __init__(self, stored: TensorSource) -> None:
        self.shapes = stored.shapes
        self._stored = stored

    def read(self, names: list[str], device: torch.device) -> dict[str, Tensor]:
        return {name: tensor.float() for name, tensor in self._stored.read(names, device).items()}


@pytest.mark.parametrize(("overrides", "level"), [(DISTILLED, 0.909375), (GUIDED_FIRST, 0.8)], ids=["distilled", "two"])
def test_from_the_same_noise_every_fp32_tap_of_both_stages_agrees(
    overrides: dict[str, Any],
    level: float,
    micro_weights: WeightsFolder,
    micro_case: Callable[..., Case],
    run: Callable[..., Any],
) -> None:
    case, stored = micro_case(overrides), WeightsFolder.lora
    with patch.object(WeightsFolder, "lora", lambda weights, name: InFp32(stored(weights, name))):
        native = run(NativeRunner(micro_weights, FP32), case)
    noise = {name: [native.taps[f"{stage}init/{name}"] for stage in ("", "stage2/")] for name in ("video", "audio")}

    pipeline: Any = importlib.import_module("diffusers").LTX2Pipeline
    taken_up: dict[str, list[tuple[float, Any]]] = {"video": [], "audio": []}  # noise level and latents of each call

    def drawn(name: str, original: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def prepare(*arguments: Any, **options: Any) -> Tensor:
            given = inspect.signature(original).bind(*arguments, **options).arguments
            taken_up[name].append((given["noise_scale"], given["latents"]))
            return noise[name].pop(0)

        return prepare

    with (
        patch.object(pipeline, "prepare_latents", drawn("video", pipeline.prepare_latents)),
        patch.object(pipeline, "prepare_audio_latents", drawn("audio", pipeline.prepare_audio_latents)),
    ):
        theirs = run(DiffusersRunner(micro_weights, FP32), case)
    assert [calls[1][0] for calls in taken_up.values()] == [level] * 2
    video, audio = (calls[1][1] for calls in taken_up.values())
    of = [f"vae.per_channel_statistics.{name}" for name in ("mean-of-means", "std-of-means")]
    mean, std = (one.float().view(1, -1, 1, 1, 1) for one in micro_weights.model.read(of, CPU).values())
    torch.testing.assert_close((video - mean) / std, theirs.taps["upsample/latent"])  # it is given unnormalized
    assert audio.shape == native.outcome.audio_latent.shape
    assert not any(noise.values())
    assert theirs.taps.keys() == native.taps.keys() and "upsample/latent" in theirs.taps
    different = {n: relative_l2(tap, theirs.taps[n]) for n, tap in native.taps.items() if n != "decode/frames"}
    assert max(different.values()) < 1e-3, max(different, key=different.__getitem__)
    assert torch.allclose(theirs.outcome.sigmas, native.outcome.sigmas, atol=1e-6)
    assert len(theirs.outcome.step_s) == len(native.outcome.step_s) == case.total_steps
    assert theirs.outcome.stage_s.keys() == native.outcome.stage_s.keys()


def test_a_run_in_two_stages_is_judged_and_explained(tiny_weights: WeightsFolder, tmp_path: Path) -> None:
    case, true = find_case("tiny_distilled"), golden_of("tiny_distilled")
    runner = DiffusersRunner(tiny_weights, BF16)
    run_to_folder(runner, case, tiny_weights, BF16, tmp_path / "port", Quiet(), writing_trace("*", "sketch"))
    port = read_run(tmp_path / "port")
    assert port.manifest.details["taps_not_offered"] == NOT_OFFERED
    assert set(read_trace(true.folder)) - set(read_trace(port.folder)) == {"stage2/image/0/latent"}
    why = diagnose(true, port, calibrated=calibrated_floors(port))
    same = true.manifest.environment["cpu_capability"] == port.manifest.environment["cpu_capability"]
    # On a CPU of another capability than the golden's, even the language model has other bits.
    assert next(iter(why.bits.firsts)) == ("connector/pos/video" if same else "text/pos/hidden")
    assert [root.tap for root in why.divergence.roots] == ["image/0/latent", "init/audio"]
    verdict = gate(true, port)
    assert verdict.outcome == "not_at_parity"
    assert ("missing_tensor", "stage2/image/0/latent") in {(one.code, one.where) for one in why.divergence.findings}


def test_a_guided_run_with_a_lora_is_judged_and_explained(
    micro_weights: WeightsFolder, micro_case: Callable[..., Case], tmp_path: Path
) -> None:
    case = micro_case(GUIDED_FIRST | PICTURE)
    for runner in (OfficialRunner(micro_weights, BF16), DiffusersRunner(micro_weights, BF16)):
        tracing = writing_trace("*", "sketch")
        run_to_folder(runner, case, micro_weights, BF16, tmp_path / runner.name, Quiet(), tracing)
    true, port = (read_run(tmp_path / name) for name in ("official", "diffusers"))
    assert port.manifest.details["peft_version"] == PEFT_VERSION
    assert set(read_trace(true.folder)) - set(read_trace(port.folder)) == {"stage2/image/0/latent"}
    why = diagnose(true, port, calibrated=calibrated_floors(port))
    assert next(iter(why.bits.firsts)) == "connector/pos/video"
    assert [root.tap for root in why.divergence.roots] == ["image/0/latent", "init/audio"]
    assert ("missing_tensor", "stage2/image/0/latent") in {(one.code, one.where) for one in why.divergence.findings}
    assert gate(true, port, profile="exact").outcome == "not_at_parity"  # the micro model has no limits


def test_pipelines_that_diffusers_lacks_are_refused_and_so_are_weights_without_an_upsampler(
    micro_weights: WeightsFolder, micro_case: Callable[..., Case], run: Callable[..., Any]
) -> None:
    with pytest.raises(RunnerError, match="distilled, one_stage, two_stage"):
        run(DiffusersRunner(micro_weights, BF16), micro_case(TWO_STAGE | {"pipeline": "keyframes"}))
    without = micro_weights.of_pipeline("one_stage")
    with pytest.raises(CheckpointError, match="these weights have none"):
        in_two_stages(None, without, None, micro_case(DISTILLED).plans, {}, Clock(CPU))
