"""Everything a run yields against everything a reference yields: frames, sound, latents, and sound against picture.

Reduced outputs are compared with reduced outputs: key frames in full, all frames small, all frames' hashes for bit
equality.

Axes: F frame, H row, W column, C channel, N sample.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

from parity.diff import audio, av_offset, frames, tensors
from parity.diff.audio import AudioDiff
from parity.diff.av_offset import AvOffset
from parity.diff.comparison import Finding
from parity.diff.frames import FramesDiff
from parity.diff.metric import tensor_metrics
from parity.diff.tensors import TensorDiff
from parity.runs.reduced import ReducedOutputs

_SMALL = "small_"


class BesideFrames(Protocol):
    """The outputs of a run beside its frames. A latent is None where the runner has none to give."""

    @property
    def audio_waveform(self) -> Tensor:
        """(C, N) float32, full scale 1.0."""

    @property
    def video_latent(self) -> Tensor | None:
        """Final video latent, the run's dtype."""

    @property
    def audio_latent(self) -> Tensor | None:
        """Final audio latent, the run's dtype."""

    @property
    def frame_rate(self) -> float:
        """Frames a second."""

    @property
    def sample_rate(self) -> int:
        """Samples a second."""


class Outputs(BesideFrames, Protocol):
    """Everything a run yields."""

    @property
    def video_frames(self) -> Tensor:
        """(F, H, W, 3) uint8, RGB."""


@dataclass(frozen=True, kw_only=True, eq=False)
class OutputsDiff:
    """All numbers by metric name, all findings, and the parts they come from, with their frames, channels and axes.

    A latent that neither run has is absent from `metrics`; one that only one run has is a finding, and its metrics are
    `nan`. `frames` are those of the whole clips, or of the small ones where outputs were reduced.
    """

    metrics: Mapping[str, float]
    findings: tuple[Finding, ...]
    frames: FramesDiff
    audio: AudioDiff
    offset: AvOffset
    video_latent: TensorDiff | None
    audio_latent: TensorDiff | None
    reduced: bool = False


def compare_outputs(reference: Outputs, candidate: Outputs) -> OutputsDiff:
    """Compare two runs' outputs.

    Args:
        reference: the run taken as true.
        candidate: the run under test.
    Returns: an OutputsDiff; whatever is missing, mismatched or not finite is a finding in it.
    Raises: ShapeError for outputs that are not of the shapes and dtypes that `Outputs` names.
    """
    frames_diff = frames.compare(reference.video_frames, candidate.video_frames)
    return with_frames(frames_diff, frames_diff.summary(), reference, candidate)


def with_frames(
    frames_diff: FramesDiff, frame_metrics: Mapping[str, float], reference: BesideFrames, candidate: BesideFrames
) -> OutputsDiff:
    """Complete a comparison of frames by everything beside them.

    Args:
        frames_diff: of all frames; it brings bit equality, findings and the frame lag.
        frame_metrics: what is to be said of frames.
        reference: the run taken as true.
        candidate: the run under test.
    """
    audio_diff = audio.compare(
        reference.audio_waveform,
        candidate.audio_waveform,
        rate_reference_hz=reference.sample_rate,
        rate_candidate_hz=candidate.sample_rate,
    )
    offset = av_offset.compare(frames_diff, audio_diff, frame_rate_hz=reference.frame_rate)
    video_latent, video_metrics, video_findings = _latent(
        "video_latent", reference.video_latent, candidate.video_latent
    )
    audio_latent, audio_metrics, audio_findings = _latent(
        "audio_latent", reference.audio_latent, candidate.audio_latent
    )
    metrics = {
        **frame_metrics,
        "frames.rate_hz.difference": candidate.frame_rate - reference.frame_rate,
        **audio_diff.summary(),
        **offset.summary(),
        "outputs.bit_equal.frames": float(frames_diff.bit_equal),
        "outputs.bit_equal.audio": float(audio_diff.bit_equal),
        **video_metrics,
        **audio_metrics,
    }
    rate_findings: tuple[Finding, ...] = ()
    if reference.frame_rate != candidate.frame_rate:
        # lags in frames of two lengths are not one number of milliseconds
        metrics["av.offset_ms.abs"] = math.nan
        rates = f"reference has {reference.frame_rate} frames a second, candidate has {candidate.frame_rate}"
        rate_findings = (Finding(code="rate_mismatch", where="frames", message=rates),)
    return OutputsDiff(
        metrics=metrics,
        findings=(
            *frames_diff.findings,
            *rate_findings,
            *audio_diff.findings,
            *offset.findings,
            *video_findings,
            *audio_findings,
        ),
        frames=frames_diff,
        audio=audio_diff,
        offset=offset,
        video_latent=video_latent,
        audio_latent=audio_latent,
    )


def _latent(
    name: str, reference: Tensor | None, candidate: Tensor | None
) -> tuple[TensorDiff | None, dict[str, float], tuple[Finding, ...]]:
    if reference is None and candidate is None:
        return None, {}, ()
    if reference is None or candidate is None:
        code, side = ("missing_tensor", "reference") if candidate is None else ("extra_tensor", "candidate")
        metrics = {metric.name: math.nan for metric in tensor_metrics(name)}
        findings = (Finding(code=code, where=name, message=f"only the {side} has a {name}"),)
        return None, {**metrics, f"outputs.bit_equal.{name}": 0.0}, findings
    diff = tensors.compare(reference, candidate, where=name)
    metrics = {**diff.summary(name), f"outputs.bit_equal.{name}": float(diff.bit_equal)}
    return diff, metrics, diff.findings


def compare_reduced(reference: ReducedOutputs, candidate: ReducedOutputs) -> OutputsDiff:
    """Compare outputs that `parity.runs.reduced.reduce_outputs` made of two runs' outputs.

    Returns: an OutputsDiff. `frames.` metrics are of the key frames, `small_frames.` and the frame lag of small copies
        of all frames. Where clips differ in count or size, both are `nan` and a finding says why.
    """
    findings = frames.shape_findings(reference.frame_shape, candidate.frame_shape)
    if findings:
        key = small = FramesDiff(
            count_difference=candidate.frame_shape[0] - reference.frame_shape[0], bit_equal=False, findings=findings
        )
    else:
        key = frames.compare(reference.key_frames, candidate.key_frames)
        small = frames.compare(reference.small_frames, candidate.small_frames)
        small = replace(
            small,
            bit_equal=torch.equal(reference.frame_sha256, candidate.frame_sha256),
            findings=(*key.findings, *small.findings),
        )
    count = "frames.count.difference"
    # Key frames lie far apart, so their flicker would be none.
    metrics = {name: value for name, value in key.summary().items() if not name.startswith("frames.flicker.")}
    metrics |= {_SMALL + name: value for name, value in small.summary().items() if name != count}
    metrics[count] = small.summary()[count]
    return replace(with_frames(small, metrics, reference, candidate), reduced=True)
