"""The fast tier computes the official function: in fp32 every tap is the official one but for rounding."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from runners.case import Case
from runners.clock import Quiet
from runners.errors import ConfigError
from runners.ltx23.stages import fast_denoising
from runners.native.runner import NativeRunner
from runners.protocol import RunOptions, Tier
from runners.weights import WeightsFolder

pytestmark = pytest.mark.slow

CPU = torch.device("cpu")
WITHIN = 2e-5  # of fp32: sums in another order, over a few blocks and steps
PICTURE = {"request.images": [{"path": "astronaut.png", "strength": 0.6}]}
V2A_OFF = {"switches.skip_v2a_cross_attn_for_video_gt": True}
UNGUIDED = {"cfg_scale": 1.0, "stg_scale": 0.0, "modality_scale": 1.0}

# Each is a form of step or of lanes that the others do not have.
REQUESTS: dict[str, dict[str, Any]] = {
    "text": {},
    "picture": PICTURE,  # two noise levels
    "picture without V2A": PICTURE | V2A_OFF,
    "perturbed in the first block": {"guidance.video.stg_blocks": [0], "guidance.audio.stg_blocks": [1]},
    "perturbed in both blocks": {"guidance.video.stg_blocks": [0, 1], "guidance.audio.stg_blocks": [0, 1]},
    "audio skips a step": {"guidance.audio.skip_step": 1, "request.num_inference_steps": 3},
    "video skips a step": {"guidance.video.skip_step": 1, "request.num_inference_steps": 3},
    "nothing guided": {f"guidance.{m}.{k}": v for m in ("video", "audio") for k, v in UNGUIDED.items()},
    "prompts alone": {f"guidance.{m}.{k}": v for m in ("video", "audio") for k, v in UNGUIDED.items() if k[0] != "c"},
}


def options(tier: Tier, dtype: torch.dtype = torch.float32) -> RunOptions:
    return RunOptions(device=CPU, dtype=dtype, tier=tier)


def distance(found: Tensor, expected: Tensor) -> float:
    """Relative L2; of a tensor of zeros, the norm; of pictures, whose levels round either way, none up to one level."""
    if expected.dtype == torch.uint8:
        return 0.0 if (found.int() - expected.int()).abs().max() <= 1 else 1.0
    return ((found.double() - expected.double()).norm() / (expected.double().norm() or 1.0)).item()


@pytest.mark.parametrize("form", REQUESTS)
def test_every_tap_is_the_official_one(
    form: str,
    micro_weights: WeightsFolder,
    micro_case: Callable[..., Case],
    official_run: Callable[..., Any],
    run: Callable[..., Any],
) -> None:
    case = micro_case(REQUESTS[form])
    official = official_run(case, torch.float32)
    fast = run(NativeRunner(micro_weights, options("fast")), case)
    assert fast.taps.keys() == official.taps.keys()
    for name, expected in official.taps.items():
        assert fast.taps[name].dtype == expected.dtype and fast.taps[name].shape == expected.shape, name
        assert distance(fast.taps[name], expected) < WITHIN, name
    for name in ("video_latent", "audio_latent", "audio_waveform"):
        assert distance(getattr(fast.outcome, name), getattr(official.outcome, name)) < WITHIN, name


def test_the_scales_of_a_later_release_follow_each_token(
    micro_weights: WeightsFolder, micro_case: Callable[..., Case], run: Callable[..., Any]
) -> None:
    """1.2.0's cross-modal modulation token by token; the exact tier is held to that release elsewhere."""
    case = micro_case(PICTURE)
    behaviour = {"cross_timestep_per_token": True}
    exact, fast = (
        run(
            NativeRunner(micro_weights, RunOptions(device=CPU, dtype=torch.float32, tier=tier, behaviours=behaviour)),
            case,
        )
        for tier in ("exact", "fast")
    )
    assert fast.taps.keys() == exact.taps.keys()
    assert max(distance(fast.taps[name], exact.taps[name]) for name in exact.taps) < WITHIN


@pytest.mark.parametrize("tier", ["fp8", "fp8x2"])
def test_fp8_departs_by_what_fp8_costs(
    tier: Tier, micro_weights: WeightsFolder, micro_case: Callable[..., Case], run: Callable[..., Any]
) -> None:
    case = micro_case(PICTURE)
    fast = run(NativeRunner(micro_weights, options("fast")), case)
    found = run(NativeRunner(micro_weights, options(tier)), case)
    name = "denoise/000/cond/block/01/video/out"
    assert 1e-3 < distance(found.taps[name], fast.taps[name]) < 0.1  # e4m3 keeps three bits after the first


def test_one_direction_between_the_streams_alone_is_refused(
    micro_weights: WeightsFolder, micro_case: Callable[..., Case], monkeypatch: pytest.MonkeyPatch
) -> None:
    passes_at = fast_denoising.FastDenoisingStage.passes_at

    def without_a2v(self: Any, index: int, batch: Any) -> Any:
        first, *rest = passes_at(self, index, batch)
        return replace(first, skips=replace(first.skips, a2v=True)), *rest

    monkeypatch.setattr(fast_denoising.FastDenoisingStage, "passes_at", without_a2v)
    with pytest.raises(ConfigError, match="one of A2V and V2A"):
        NativeRunner(micro_weights, options("fast")).run(micro_case(), Quiet())
