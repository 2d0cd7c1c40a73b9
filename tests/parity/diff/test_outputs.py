"""All outputs of a run at once: every metric is there, and what is missing is named."""

import math
from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor

from parity.diff.metric import METRICS
from parity.diff.outputs import OutputsDiff, compare_outputs


@dataclass(frozen=True, kw_only=True)
class Run:
    video_frames: Tensor
    audio_waveform: Tensor
    video_latent: Tensor | None
    audio_latent: Tensor | None
    frame_rate: float = 24.0
    sample_rate: int = 2400


@pytest.fixture
def run() -> Run:
    generator = torch.Generator().manual_seed(0)
    return Run(
        video_frames=torch.randint(0, 256, (5, 8, 12, 3), dtype=torch.uint8, generator=generator),
        audio_waveform=0.1 * torch.randn(2, 500, generator=generator),
        video_latent=torch.randn(1, 3, 2, 4, 6, generator=generator).bfloat16(),
        audio_latent=torch.randn(1, 8, 5, 7, generator=generator).bfloat16(),
    )


def codes(diff: OutputsDiff) -> list[tuple[str, str]]:
    return [(finding.code, finding.where) for finding in diff.findings]


def test_equal_runs_have_every_metric_at_its_ideal(run: Run) -> None:
    diff = compare_outputs(run, replace(run))
    assert set(diff.metrics) == {
        name for name in METRICS if not name.startswith(("small_frames.", "taps.", "drift.", "isolated."))
    }
    assert diff.findings == ()
    for name, value in diff.metrics.items():
        ideal = {"higher": (1.0, math.inf), "lower": (0.0,), "exact": (0.0,)}[METRICS[name].direction]
        assert value in ((1.0,) if name.startswith("outputs.bit_equal") else ideal), name


@pytest.mark.parametrize("part", ["video_frames", "audio_waveform", "video_latent", "audio_latent"])
def test_one_changed_element_is_seen_in_its_own_part_alone(run: Run, part: str) -> None:
    changed = getattr(run, part).clone()
    changed.view(-1)[3] += 1
    diff = compare_outputs(run, replace(run, **{part: changed}))
    names = {"video_frames": "frames", "audio_waveform": "audio"}
    flags = {name: value for name, value in diff.metrics.items() if name.startswith("outputs.bit_equal")}
    assert [name for name, value in flags.items() if value == 0] == [f"outputs.bit_equal.{names.get(part, part)}"]
    assert diff.findings == ()


def test_a_latent_that_one_side_lacks_is_named_and_one_that_both_lack_is_absent(run: Run) -> None:
    missing = compare_outputs(run, replace(run, video_latent=None))
    assert codes(missing) == [("missing_tensor", "video_latent")]
    assert math.isnan(missing.metrics["video_latent.relative_l2"])
    assert missing.metrics["outputs.bit_equal.video_latent"] == 0.0
    assert codes(compare_outputs(replace(run, audio_latent=None), run)) == [("extra_tensor", "audio_latent")]
    bare = replace(run, video_latent=None, audio_latent=None)
    absent = compare_outputs(bare, bare)
    assert absent.findings == ()
    assert not any("latent" in name for name in absent.metrics)


def test_another_frame_rate_is_named_and_leaves_no_offset(run: Run) -> None:
    diff = compare_outputs(run, replace(run, frame_rate=25.0))
    assert codes(diff) == [("rate_mismatch", "frames")]
    assert diff.metrics["frames.rate_hz.difference"] == 1.0
    assert math.isnan(diff.metrics["av.offset_ms.abs"])


def test_a_short_run_with_nan_and_another_latent_shape_names_all_three(run: Run) -> None:
    waveform = run.audio_waveform.clone()
    waveform[1, 9] = math.nan
    candidate = replace(
        run, video_frames=run.video_frames[:-1], audio_waveform=waveform, audio_latent=torch.ones(1, 8, 7, 5)
    )
    found = codes(compare_outputs(run, candidate))
    for wanted in (
        ("missing_frame", "frames"),
        ("nan_candidate", "audio/channel 1"),
        ("shape_mismatch", "audio_latent"),
        ("lag_undetermined", "av_offset/audio"),
    ):
        assert wanted in found
