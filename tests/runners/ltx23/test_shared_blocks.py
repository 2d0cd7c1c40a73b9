"""Blocks that passes have in common are computed once, with the bits and taps of a model that computes them again."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from parity.taps.name import place_of
from parity.trace.file import read_trace
from parity.trace.sketch import sketch
from parity.trace.trace_writer import TraceWriter
from runners.case import Case
from runners.clock import Quiet
from runners.ltx23.block import AudioVideoBlock
from runners.ltx23.passes import passes_of_step
from runners.ltx23.shared_blocks import departure
from runners.ltx23.transformer import NO_SKIPS, Skips
from runners.native.runner import NativeRunner
from runners.protocol import Outcome, RunOptions
from runners.request import Guider
from runners.tap import can_repeat, listening
from runners.weights import WeightsFolder

BF16 = RunOptions(device=torch.device("cpu"))
LATE = {"guidance.video.stg_blocks": [1], "guidance.audio.stg_blocks": [1], "request.num_inference_steps": 1}
NO_SUCH = {**LATE, "guidance.video.stg_blocks": [7], "guidance.audio.stg_blocks": [7]}


@pytest.fixture
def blocks_run(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Number of blocks that ran, all passes together."""
    ran: Counter[str] = Counter()
    forward = AudioVideoBlock.forward

    def counted(block: AudioVideoBlock, *call: object) -> tuple[Tensor, Tensor]:
        ran["blocks"] += 1
        return forward(block, *call)  # type: ignore[arg-type]

    monkeypatch.setattr(AudioVideoBlock, "forward", counted)
    return ran


def outcome(weights: WeightsFolder, case: Case, listener: Callable[[str, Tensor], None] | None = None) -> Outcome:
    with NativeRunner(weights, BF16) as runner:
        if listener is None:
            return runner.run(case, Quiet())
        with listening(listener):
            return runner.run(case, Quiet())


@pytest.mark.parametrize(
    ("one", "other", "first"),
    [
        (NO_SKIPS, NO_SKIPS, 5),
        (NO_SKIPS, Skips(video_self_attention=frozenset({3}), audio_self_attention=frozenset({4, 2})), 2),
        (NO_SKIPS, Skips(a2v=True), 0),
        (Skips(v2a=True), Skips(v2a=True, video_self_attention=frozenset({0})), 0),
        (Skips(v2a=True), Skips(v2a=True, audio_self_attention=frozenset({9})), 5),  # a block that there is not
    ],
)
def test_passes_depart_at_the_first_block_that_they_skip_differently(one: Skips, other: Skips, first: int) -> None:
    assert departure(one, other, 5) == departure(other, one, 5) == first


def test_the_released_default_shares_28_of_48_blocks_of_one_pass() -> None:
    guider = Guider(cfg_scale=3.0, stg_scale=1.0, rescale_scale=0.7, modality_scale=3.0, stg_blocks=(28,))
    cond, uncond, perturbed, isolated = passes_of_step(0, guider, guider, negative_disables_skipped_modality=False)
    assert departure(cond.skips, perturbed.skips, 48) == 28
    assert departure(cond.skips, isolated.skips, 48) == 0 and uncond.negative_prompt


@pytest.mark.parametrize(
    ("change", "saved"), [(LATE, 1), (NO_SUCH, 2), ({**LATE, "guidance.audio.stg_blocks": [0]}, 0)]
)
def test_every_output_has_the_bits_of_a_run_that_computes_every_pass(
    change: dict[str, object],
    saved: int,
    micro_weights: WeightsFolder,
    micro_case: Callable[..., Case],
    blocks_run: Counter[str],
) -> None:
    case = micro_case(change)
    shared = outcome(micro_weights, case)
    assert blocks_run["blocks"] == 4 * 2 - saved
    blocks_run.clear()
    whole = outcome(micro_weights, case, lambda _name, _tensor: None)  # who cannot repeat hears every pass computed
    assert blocks_run["blocks"] == 4 * 2
    for name in ("video_frames", "audio_waveform", "video_latent", "audio_latent"):
        assert torch.equal(getattr(shared, name), getattr(whole, name)), name


def test_a_trace_of_shared_blocks_is_that_of_every_pass_computed(
    micro_weights: WeightsFolder, micro_case: Callable[..., Case], blocks_run: Counter[str], tmp_path: Path
) -> None:
    case, heard = micro_case(LATE), dict[str, Tensor]()
    with TraceWriter(tmp_path) as writer:
        outcome(micro_weights, case, writer)
    assert blocks_run["blocks"] == 4 * 2 - 1
    outcome(micro_weights, case, lambda name, tensor: heard.update({name: tensor.clone()}))
    trace = read_trace(tmp_path)
    assert list(trace) == list(heard)
    for name, tensor in heard.items():
        expected = sketch(tensor)
        assert trace[name].same_bits(expected) and torch.equal(trace[name].buckets, expected.buckets), name
    repeated = [name for name in trace if "/perturbed/block/00/" in name]
    assert len(repeated) == 10 and {place_of(name).guidance_pass for name in repeated} == {"perturbed"}


@pytest.mark.parametrize("how", [{"pattern": "denoise/*"}, {"keep": "full"}])
def test_who_keeps_some_taps_or_whole_tensors_hears_every_pass_computed(how: dict[str, str], tmp_path: Path) -> None:
    with TraceWriter(tmp_path, **how) as writer, listening(writer):  # type: ignore[arg-type]
        assert not can_repeat()
    assert can_repeat()
