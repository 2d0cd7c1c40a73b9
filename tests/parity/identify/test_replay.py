"""The native model stage by stage has the runner's bits, takes the run's own tensors, and batches without changing the
function."""

from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from torch import Tensor

from parity.defects.batched import each_pass
from parity.diff.sketches import relative_l2
from parity.identify.behaviours import (
    ALL_PASSES_BATCHED,
    CONNECTORS_BATCHED,
    CONNECTORS_SHARE_MASK,
    PROMPT_PASSES_BATCHED,
    SITES,
    Setting,
    reference_at,
    setting_of,
)
from parity.identify.replay import Replay, Taps
from parity.identify.run_tensors import AUDIO_LATENT, VIDEO_LATENT, RunTensors
from parity.trace.sketch import sketch
from runners.case import Case
from runners.native.runner import NativeRunner
from runners.protocol import RunOptions
from runners.weights import WeightsFolder

pytestmark = pytest.mark.slow

CPU = torch.device("cpu")
MakeCase = Callable[..., Case]
EVERYTHING: dict[str, Any] = {
    "request.images": [
        {"path": "astronaut.png", "strength": 0.7},
        {"path": "coffee.jpg", "frame_idx": 3, "strength": 0.9},
    ],
    "request.num_inference_steps": 2,
    "guidance.audio.skip_step": 1,
}


def replay(weights: WeightsFolder, case: Case, run: Any, taps: Mapping[str, Tensor], **options: Any) -> Replay:
    own = RunTensors(video_latent=run.outcome.video_latent, audio_latent=run.outcome.audio_latent, taps=taps)
    return Replay(weights, case, RunOptions(device=CPU, **options), own, 64)


def executed(run: Callable[..., Any], weights: WeightsFolder, case: Case, setting: Setting) -> Any:
    return run(NativeRunner(weights, RunOptions(device=CPU, behaviours=vars(reference_at(setting)))), case)


def every(found: Replay, setting: Setting) -> Taps:
    return {name: value for site in SITES for name, value in found.taps(site, setting).items()}


def test_every_site_has_the_runners_bits(
    micro_weights: WeightsFolder, micro_case: MakeCase, run: Callable[..., Any]
) -> None:
    case, setting = micro_case(EVERYTHING), setting_of("1.2.0")
    wanted = executed(run, micro_weights, case, setting)
    found = replay(micro_weights, case, wanted, {})
    taps = every(found, setting)
    assert set(taps) == set(wanted.taps) | {VIDEO_LATENT, AUDIO_LATENT}
    assert [name for name, tensor in wanted.taps.items() if not taps[name].same_bits(sketch(tensor))] == []
    assert taps[VIDEO_LATENT].same_bits(sketch(wanted.outcome.video_latent))
    assert taps[AUDIO_LATENT].same_bits(sketch(wanted.outcome.audio_latent))
    assert {site for site in SITES if found.taps(site, setting)} == set(SITES) - {"second"}
    for site in SITES:
        assert all(found.at(site, name) for name in found.taps(site, setting)), site
    computed = found.computed
    every(found, setting)
    assert found.computed == computed, "nothing is computed twice"


def test_both_stages_have_the_runners_bits(
    micro_weights: WeightsFolder, micro_case: MakeCase, run: Callable[..., Any]
) -> None:
    sizes = {"request.height": 64, "request.width": 128, "stages.second.sigmas": [0.8, 0.0]}
    pictures = {"request.images": EVERYTHING["request.images"]}
    case, setting = micro_case({"pipeline": "two_stage", **pictures, **sizes}), setting_of("1.2.0")
    wanted = executed(run, micro_weights, case, setting)
    taps = every(replay(micro_weights, case, wanted, {}), setting)
    assert set(taps) == set(wanted.taps) | {VIDEO_LATENT, AUDIO_LATENT}
    assert [name for name, tensor in wanted.taps.items() if not taps[name].same_bits(sketch(tensor))] == []
    assert taps[AUDIO_LATENT].same_bits(sketch(wanted.outcome.audio_latent))  # of the first stage


def test_a_stage_goes_on_from_the_runs_own_tensors(
    micro_weights: WeightsFolder, micro_case: MakeCase, run: Callable[..., Any]
) -> None:
    theirs = executed(run, micro_weights, micro_case({"request.seed": 11}), frozenset())
    case = micro_case()
    alone = every(replay(micro_weights, case, theirs, {}), frozenset())
    fed = every(replay(micro_weights, case, theirs, theirs.taps), frozenset())
    apart = {name for name, tensor in theirs.taps.items() if not alone[name].same_bits(sketch(tensor))}
    still = {name for name, tensor in theirs.taps.items() if not fed[name].same_bits(sketch(tensor))}
    assert "denoise/001/guided/video" in apart and len(apart) > 100
    assert still == {"init/video", "init/audio"}, "only what has no tap before it is ours: another seed"


def test_a_batch_computes_the_same_function_with_other_rounding(
    micro_weights: WeightsFolder, micro_case: MakeCase, run: Callable[..., Any]
) -> None:
    case = micro_case({"request.images": [{"path": "coffee.jpg"}], "request.num_inference_steps": 1})
    found = replay(micro_weights, case, executed(run, micro_weights, case, frozenset()), {}, dtype=torch.float32)
    plain = found.taps("passes", frozenset())
    for switch in (PROMPT_PASSES_BATCHED, ALL_PASSES_BATCHED):
        batched = found.taps("passes", frozenset({switch}))
        assert set(batched) == set(plain) and {name.split("/")[2] for name in plain} > {"perturbed", "isolated"}
        errors = [relative_l2(plain[name], batched[name]).estimate for name in plain]
        assert 0 < max(errors) < 1e-5, switch
    plain = found.taps("connector", frozenset())
    batched = found.taps("connector", frozenset({CONNECTORS_BATCHED}))
    assert max(relative_l2(plain[name], batched[name]).estimate for name in plain) < 1e-5
    shared = found.taps("connector", frozenset({CONNECTORS_SHARE_MASK}))
    errors_by_tap = {name: relative_l2(plain[name], shared[name]).estimate for name in plain}
    assert max(errors_by_tap["connector/pos/video"], errors_by_tap["connector/pos/audio"]) < 1e-5
    assert min(errors_by_tap["connector/neg/video"], errors_by_tap["connector/neg/audio"]) > 1e-2


def test_a_batch_is_heard_as_its_passes() -> None:
    heard: dict[str, Tensor] = {}
    hear = each_pass(heard.__setitem__)
    both = torch.arange(6.0).view(2, 1, 3)
    hear("denoise/000/cond+isolated/block/00/video/ff", both)
    hear("denoise/000/cond+isolated/block/00/video/av_attn", both)
    hear("denoise/000/guided/video", both)
    assert torch.equal(heard["denoise/000/isolated/block/00/video/ff"], both[1:])
    assert torch.equal(heard["denoise/000/cond/block/00/video/av_attn"], both[:1])
    assert "denoise/000/isolated/block/00/video/av_attn" not in heard
    assert heard["denoise/000/guided/video"] is both
