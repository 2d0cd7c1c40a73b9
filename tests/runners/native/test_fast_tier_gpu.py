"""The fast tier on a GPU: streams and graphs change no bit, nothing is compiled twice, and each tier does its work."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from runners.case import Case
from runners.clock import Quiet
from runners.forge.weights import ForgedWeights
from runners.ltx23 import step_graph
from runners.ltx23.fast import side_stream
from runners.native.runner import NativeRunner
from runners.protocol import Outcome, RunOptions, Tier

# A box's own torch may warn of things that the pinned one does not.
pytestmark = [pytest.mark.gpu, pytest.mark.filterwarnings("default")]

OUTPUTS = ("video_frames", "audio_waveform", "video_latent", "audio_latent")
SIZE = {"request.height": 128, "request.width": 192, "request.num_frames": 17, "request.num_inference_steps": 8}
FORMS: dict[str, dict[str, Any]] = {
    "picture": {"request.images": [{"path": "astronaut.png", "strength": 0.7}]},
    "V2A off": {"switches.skip_v2a_cross_attn_for_video_gt": True},
    "perturbed first": {"guidance.video.stg_blocks": [0], "guidance.audio.stg_blocks": [1]},
    "audio skips every other step": {"guidance.audio.skip_step": 1},
}


@pytest.fixture(scope="module")
def small() -> ForgedWeights:
    return ForgedWeights("small", 0, torch.device("cuda"))


def outcome(weights: ForgedWeights, case: Case, tier: Tier = "fast") -> Outcome:
    with NativeRunner(weights, RunOptions(device=torch.device("cuda"), tier=tier)) as runner:
        return runner.run(case, Quiet())


def assert_same(one: Outcome, other: Outcome) -> None:
    for name in OUTPUTS:
        assert torch.equal(getattr(one, name), getattr(other, name)), name


@pytest.mark.parametrize(("form", "tier"), [*((form, "fast") for form in FORMS), ("picture", "fp8x2")])
def test_the_side_stream_and_graphs_change_no_bit(
    form: str, tier: Tier, small: ForgedWeights, micro_case: Callable[..., Case], monkeypatch: pytest.MonkeyPatch
) -> None:
    case = micro_case(SIZE | FORMS[form])
    monkeypatch.setattr(step_graph, "HOST_SHARE", 0.0)
    replayed = outcome(small, case, tier)
    assert "steps replayed" in replayed.details["step_graphs"]
    monkeypatch.setattr(step_graph, "HOST_SHARE", 2.0)
    computed = [outcome(small, case, tier) for _ in range(3)]
    monkeypatch.setattr(side_stream, "tapping", lambda: True)
    alone = outcome(small, case, tier)
    for one in (replayed, *computed):
        assert_same(one, alone)


def test_nothing_is_compiled_a_second_time(small: ForgedWeights, micro_case: Callable[..., Case]) -> None:
    outcome(small, micro_case(SIZE))
    again = outcome(small, micro_case(SIZE | {"request.num_inference_steps": 3}))
    assert again.details["kernels"].startswith("0 kernels compiled in 0.0 s")


@pytest.fixture(scope="module")
def fast(small: ForgedWeights, micro_case: Callable[..., Case]) -> Outcome:
    return outcome(small, micro_case(SIZE))


@pytest.mark.parametrize("tier", ["exact", "fp8", "fp8x2"])
def test_the_tiers_are_no_farther_apart_than_on_a_cpu(
    tier: Tier, fast: Outcome, small: ForgedWeights, micro_case: Callable[..., Case]
) -> None:
    """There exact is 0.021 from fast in the video latent, fp8 0.026 and fp8x2 0.048."""
    other = outcome(small, micro_case(SIZE), tier)
    for name in ("video_latent", "audio_latent"):
        one, its = getattr(fast, name).float(), getattr(other, name).float()
        assert 1e-4 < (one - its).norm() / its.norm() < 0.1, name


def test_under_autocast_it_is_as_near_to_the_exact_tier(small: ForgedWeights, micro_case: Callable[..., Case]) -> None:
    case = micro_case(SIZE | {"switches.disable_autocast": False})
    fast, exact = outcome(small, case), outcome(small, case, "exact")
    for name in ("video_latent", "audio_latent"):
        one, its = getattr(fast, name).float(), getattr(exact, name).float()
        assert 1e-4 < (one - its).norm() / its.norm() < 0.1, name
