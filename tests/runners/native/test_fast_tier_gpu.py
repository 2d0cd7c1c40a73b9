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


@pytest.mark.parametrize("tier", ["fp8", "fp8x2"])
def test_fp8_is_another_answer_and_not_far(tier: Tier, small: ForgedWeights, micro_case: Callable[..., Case]) -> None:
    case = micro_case(SIZE)
    fast, found = outcome(small, case).video_latent.float(), outcome(small, case, tier).video_latent.float()
    assert 1e-4 < (found - fast).norm() / fast.norm() < 0.3
