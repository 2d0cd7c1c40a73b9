"""The metrics: name, unit, which way is better, and one line of meaning.

The names are the keys of the threshold registry. `direction` says what a limit means: "higher" is better, "lower" is
better, or "exact" (the one wanted value is known: 0 for a difference, 1 for an equality). A value that carries a sign
where both signs are faults enters a summary as a magnitude, and its name says so (`max_abs`, `abs`).

Against a golden that keeps three whole frames (`parity.runs.reduced`), `frames.` is measured on those three and has no
flicker, and `small_frames.` on small copies of all frames. Otherwise `frames.` is measured on all of them.

`drift.GROUP` and `isolated.GROUP` are for runs that offer their internals: the worst relative L2 among the taps of a
group in the free run, and among its places fed the reference's own inputs (`parity.taps.group`).

Infinite values are legitimate (the PSNR of equal frames); `nan` means "could not be computed" and must fail.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

from parity.taps.group import DRIFT_GROUPS, ISOLATED_GROUPS
from runners.errors import RegistryError

Direction = Literal["higher", "lower", "exact"]
WHOLE_UNITS: Final = ("ULP", "samples", "elements", "taps", "frames", "channels")


@dataclass(frozen=True, kw_only=True)
class Metric:
    """The definition of one number: registry name, unit ("" for a plain ratio), which way is better, what it means."""

    name: str
    unit: str
    direction: Direction
    meaning: str

    @property
    def whole(self) -> bool:
        """True if every value is a whole number: of ULP, samples, elements, or steps between two bytes."""
        return self.unit in WHOLE_UNITS or self.name.endswith("frames.max_abs")

    @property
    def squared(self) -> bool:
        """True if what a value lacks to 1 is a square of errors: of a cosine, a correlation, SSIM."""
        return self.direction == "higher" and not self.unit

    @property
    def isolated(self) -> bool:
        """True if it is of parts alone, fed the reference's own inputs."""
        return self.name.startswith(ISOLATED)


_TENSOR: Final[tuple[tuple[str, str, Direction, str], ...]] = (
    ("relative_l2", "", "lower", "norm of the error over norm of the reference"),
    ("cosine", "", "higher", "cosine of the angle between the two tensors, as flat vectors"),
    ("max_abs", "tensor's own", "lower", "largest absolute error of one element"),
    ("mean_abs", "tensor's own", "lower", "mean absolute error"),
    ("ulp.p50", "ULP", "lower", "median distance in representable values; 16-bit floats only"),
    ("ulp.p90", "ULP", "lower", "90th percentile of that distance (nearest rank)"),
    ("ulp.p99", "ULP", "lower", "99th percentile of that distance (nearest rank)"),
    ("ulp.p100", "ULP", "lower", "largest such distance"),
    ("value_mismatches", "elements", "lower", "elements that compare unequal; NaN equals nothing, -0.0 equals 0.0"),
    ("bit_mismatches", "elements", "lower", "elements whose bits differ; -0.0 differs from 0.0"),
    ("non_finite", "elements", "exact", "NaN and infinities, both sides together"),
)

_OTHERS: Final[tuple[tuple[str, str, Direction, str], ...]] = (
    ("frames.psnr_db.min", "dB", "higher", "PSNR at peak 255 of the worst frame"),
    ("frames.psnr_db.mean", "dB", "higher", "PSNR at peak 255 from the squared error averaged over all frames"),
    ("frames.ssim.min", "", "higher", "SSIM (7 x 7 window, mean over RGB) of the worst frame"),
    ("frames.ssim.mean", "", "higher", "SSIM averaged over all frames"),
    ("frames.mad.max", "levels", "lower", "mean absolute difference of the worst frame, in steps of 1/255"),
    ("frames.mad.mean", "levels", "lower", "mean absolute difference over all frames"),
    ("frames.max_abs", "levels", "lower", "largest absolute difference of any byte"),
    ("frames.flicker.max", "levels", "lower", "mean absolute error of the frame-to-frame change, worst transition"),
    ("frames.flicker.mean", "levels", "lower", "the same, averaged over all transitions"),
    ("frames.count.difference", "frames", "exact", "candidate's frames minus reference's"),
    ("frames.rate_hz.difference", "Hz", "exact", "candidate's frame rate minus reference's"),
    ("small_frames.psnr_db.min", "dB", "higher", "PSNR at peak 255 of the worst frame, all frames made small first"),
    ("small_frames.psnr_db.mean", "dB", "higher", "the same, from the squared error averaged over all small frames"),
    ("small_frames.ssim.min", "", "higher", "SSIM of the worst small frame"),
    ("small_frames.ssim.mean", "", "higher", "SSIM averaged over all small frames"),
    ("small_frames.mad.max", "levels", "lower", "mean absolute difference of the worst small frame"),
    ("small_frames.mad.mean", "levels", "lower", "mean absolute difference over all small frames"),
    ("small_frames.max_abs", "levels", "lower", "largest absolute difference of any byte of a small frame"),
    ("small_frames.flicker.max", "levels", "lower", "mean absolute error of the change between small frames, worst"),
    ("small_frames.flicker.mean", "levels", "lower", "the same, averaged over all transitions"),
    ("audio.snr_db.min", "dB", "higher", "signal-to-noise ratio of the worst channel"),
    ("audio.relative_l2.max", "", "lower", "norm of the error over norm of the reference, worst channel"),
    ("audio.correlation.min", "", "higher", "Pearson correlation at zero lag, worst channel"),
    ("audio.log_mel_db.max", "dB", "lower", "mean absolute difference of log-mel power, worst channel"),
    ("audio.mrstft_convergence.max", "", "lower", "spectral convergence over three STFT resolutions, worst channel"),
    ("audio.mrstft_log_db.max", "dB", "lower", "mean absolute log-magnitude difference over them, worst channel"),
    ("audio.lag_samples.max_abs", "samples", "lower", "magnitude of the best lag, worst channel"),
    ("audio.level_db.max_abs", "dB", "lower", "magnitude of the change in RMS level, worst channel"),
    ("audio.length_samples.difference", "samples", "exact", "candidate's length minus reference's"),
    ("audio.channels.difference", "channels", "exact", "candidate's channels minus reference's"),
    ("audio.sample_rate_hz.difference", "Hz", "exact", "candidate's sample rate minus reference's"),
    ("av.offset_ms.abs", "ms", "lower", "magnitude of audio lag minus frame lag"),
    ("taps.bit_different", "taps", "exact", "taps whose bits differ; measured where both runs have a trace"),
    ("outputs.bit_equal.frames", "", "exact", "1 if every byte of every frame is equal, else 0"),
    ("outputs.bit_equal.audio", "", "exact", "1 if every bit of the waveform is equal, else 0"),
    ("outputs.bit_equal.video_latent", "", "exact", "1 if every bit of the video latent is equal, else 0"),
    ("outputs.bit_equal.audio_latent", "", "exact", "1 if every bit of the audio latent is equal, else 0"),
)


def tensor_metrics(prefix: str) -> tuple[Metric, ...]:
    """Return the metrics of one compared tensor, named `{prefix}.relative_l2` and so on."""
    return tuple(Metric(name=f"{prefix}.{n}", unit=u, direction=d, meaning=m) for n, u, d, m in _TENSOR)


DRIFT, ISOLATED = "drift.", "isolated."  # what the metrics of internals begin with


def _of_groups(prefix: str, groups: Sequence[str], meaning: str) -> tuple[Metric, ...]:
    return tuple(
        Metric(name=f"{prefix}{group}", unit="", direction="lower", meaning=f"{meaning} {group}") for group in groups
    )


METRICS: Final[dict[str, Metric]] = {
    metric.name: metric
    for metric in (
        *(Metric(name=n, unit=u, direction=d, meaning=m) for n, u, d, m in _OTHERS),
        *tensor_metrics("video_latent"),
        *tensor_metrics("audio_latent"),
        *_of_groups(DRIFT, DRIFT_GROUPS, "worst relative L2, in the free run, of a tap of"),
        *_of_groups(ISOLATED, ISOLATED_GROUPS, "worst relative L2 that is added, fed the reference's inputs, at"),
    )
}

BIT_EQUALITIES: Final = tuple(name for name in METRICS if ".bit_equal." in name)


def metric_named(name: str) -> Metric:
    """Look a metric up; a limit on a name that nothing measures must not pass silently.

    Raises: RegistryError for a name that no comparator produces.
    """
    try:
        return METRICS[name]
    except KeyError:
        raise RegistryError(f"No metric is named {name!r}. Known metrics: {', '.join(sorted(METRICS))}.") from None


def highest(values: Sequence[float]) -> float:
    """Return the largest value; `nan` if any is `nan` (the built-in max may drop it) or if there is none."""
    return math.nan if not values or any(math.isnan(v) for v in values) else max(values)


def lowest(values: Sequence[float]) -> float:
    """Return the smallest value; `nan` if any is `nan` or if there is none."""
    return -highest([-v for v in values])


def average(values: Sequence[float]) -> float:
    """Return the mean, its sum free of rounding; `nan` if any value is `nan` or if there is none."""
    return math.fsum(values) / len(values) if values else math.nan
