"""Differences between two clips of frames: every frame, not a sample of them.

Axes: F frame, H row, W column, 3 RGB; G cells of a coarse luminance grid. Levels are steps of 1/255.

Frames are taken one at a time by a few threads, so memory beyond the two clips is a few frames for each thread.
Differences of bytes are exact in int16, their squares are summed in int64, SSIM runs in float64.
"""

import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from parity.diff.comparison import Finding, count_finding
from parity.diff.metric import average, highest, lowest
from runners.errors import ShapeError

PEAK: Final = 255.0  # fixed: the peak of uint8, never that of the data
SSIM_WINDOW: Final = 7  # scikit-image's default
LUMINANCE_GRID: Final = (8, 12)  # rows, columns
_LUMINANCE: Final = np.array([0.2126, 0.7152, 0.0722])  # of R, G, B: Rec. ITU-R BT.709
_MAX_THREADS: Final = 4  # each holds about 60 MB while SSIM runs on 768 x 512

Clip = Tensor | NDArray[np.uint8]


@dataclass(frozen=True, kw_only=True, eq=False)
class FramesDiff:
    """The differences of a candidate clip from its reference, frame by frame; `nan` or empty if not computable.

    `flicker[t]` is the mean absolute error, in levels, of the change from frame t to frame t + 1; a clip of one frame
    has none, so its flicker metrics are `nan`. `luminance_reference` and `luminance_candidate` (F, G), float64 levels,
    are what the frame lag is found from.
    """

    count_difference: int
    bit_equal: bool
    mean_square: tuple[float, ...] = ()  # levels squared
    psnr_db: tuple[float, ...] = ()  # inf for equal frames
    ssim: tuple[float, ...] = ()
    mad: tuple[float, ...] = ()  # levels
    max_abs: tuple[float, ...] = ()  # levels
    flicker: tuple[float, ...] = ()
    luminance_reference: NDArray[np.float64] | None = None
    luminance_candidate: NDArray[np.float64] | None = None
    findings: tuple[Finding, ...] = ()

    def summary(self) -> dict[str, float]:
        """Return the `frames.` metrics but the frame rate, which the frames themselves do not know."""
        return {
            "frames.psnr_db.min": lowest(self.psnr_db),
            "frames.psnr_db.mean": _psnr_db(average(self.mean_square)),
            "frames.ssim.min": lowest(self.ssim),
            "frames.ssim.mean": average(self.ssim),
            "frames.mad.max": highest(self.mad),
            "frames.mad.mean": average(self.mad),
            "frames.max_abs": highest(self.max_abs),
            "frames.flicker.max": highest(self.flicker),
            "frames.flicker.mean": average(self.flicker),
            "frames.count.difference": float(self.count_difference),
        }


def compare(reference: Clip, candidate: Clip) -> FramesDiff:
    """Compare two clips, every frame.

    Args:
        reference: (F, H, W, 3) uint8 RGB, a tensor on any device or an array.
        candidate: the same.
    Returns: a FramesDiff. Other counts or sizes of frames, no frames at all, and frames smaller than the window of SSIM
        are findings in it; nothing is cropped, so a clip that is one frame short has no numbers but its count.
    Raises: ShapeError unless both have four axes and are uint8, and the reference has three channels.
    Source: PSNR is 10 log10(255^2 / mean squared error); SSIM is Wang et al. (2004) as scikit-image computes it by
        default (uniform 7 x 7 window, sample covariance, mean over channels) at a data range of 255.
    """
    for side, clip in (("reference", reference), ("candidate", candidate)):
        if clip.ndim != 4 or clip.dtype not in (torch.uint8, np.uint8):
            raise ShapeError(
                f"frames.compare wants (F, H, W, 3) uint8; the {side} is {tuple(clip.shape)} {clip.dtype}. "
                "Convert float frames the way the run that made them does."
            )
    if reference.shape[3] != 3:
        raise ShapeError(f"frames.compare wants three channels, RGB; the reference is {tuple(reference.shape)}.")
    findings = shape_findings(tuple(reference.shape), tuple(candidate.shape))
    frames = reference.shape[0]
    if findings:
        return FramesDiff(count_difference=candidate.shape[0] - frames, bit_equal=False, findings=findings)

    def measure(t: int) -> _Frame:
        previous = None if t == 0 else (_frame(reference, t - 1), _frame(candidate, t - 1))
        return _measure(_frame(reference, t), _frame(candidate, t), previous)

    with ThreadPoolExecutor(max(1, min(_MAX_THREADS, torch.get_num_threads(), frames))) as pool:
        measured = list(pool.map(measure, range(frames)))
    if min(reference.shape[1:3]) < SSIM_WINDOW:
        findings = (Finding(code="frame_too_small", where="frames", message=f"{tuple(reference.shape[1:3])} pixels"),)
    return FramesDiff(
        count_difference=0,
        bit_equal=all(frame.max_abs == 0 for frame in measured),
        mean_square=tuple(frame.mean_square for frame in measured),
        psnr_db=tuple(_psnr_db(frame.mean_square) for frame in measured),
        ssim=tuple(frame.ssim for frame in measured),
        mad=tuple(frame.mad for frame in measured),
        max_abs=tuple(frame.max_abs for frame in measured),
        flicker=tuple(frame.flicker for frame in measured[1:]),
        luminance_reference=np.stack([frame.luminance_reference for frame in measured]),
        luminance_candidate=np.stack([frame.luminance_candidate for frame in measured]),
        findings=findings,
    )


def luminance_grid(frame: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Return the mean luminance of each cell of a coarse grid over an (H, W, 3) frame: (G,) float64 levels.

    The grid has `LUMINANCE_GRID` cells, or one for each pixel along an axis with fewer pixels than cells.
    """
    means = frame.astype(np.float64)
    for axis, cells in enumerate(LUMINANCE_GRID):
        size = frame.shape[axis]
        edges = np.linspace(0, size, min(cells, size), endpoint=False).astype(np.int64)
        counts = np.diff(edges, append=size)
        counts = counts.reshape(-1, 1, 1) if axis == 0 else counts.reshape(1, -1, 1)
        means = np.add.reduceat(means, edges, axis=axis) / counts  # (cells, W, 3), then (cells, cells, 3)
    return np.asarray(means @ _LUMINANCE, dtype=np.float64).reshape(-1)


@dataclass(frozen=True, kw_only=True, eq=False)
class _Frame:
    mean_square: float
    ssim: float
    mad: float
    max_abs: float
    flicker: float
    luminance_reference: NDArray[np.float64]
    luminance_candidate: NDArray[np.float64]


def shape_findings(reference: tuple[int, ...], candidate: tuple[int, ...]) -> tuple[Finding, ...]:
    """The reason that clips of these shapes, (F, H, W, 3), cannot be compared; nothing if they can."""
    if math.prod(reference) == 0 or math.prod(candidate) == 0:
        return (Finding(code="empty", where="frames", message=f"reference {reference}, candidate {candidate}"),)
    findings = []
    if reference[0] != candidate[0]:
        findings.append(count_finding("frame", "frames", reference[0], candidate[0]))
    if reference[3] != candidate[3]:
        findings.append(count_finding("channel", "frames", reference[3], candidate[3]))
    if reference[1:3] != candidate[1:3]:
        sizes = f"reference has {reference[1:3]} rows and columns, candidate {candidate[1:3]}"
        findings.append(Finding(code="shape_mismatch", where="frames", message=sizes))
    return tuple(findings)


def _frame(clip: Clip, t: int) -> NDArray[np.uint8]:
    frame = clip[t]
    return frame.cpu().numpy() if isinstance(frame, Tensor) else frame


def _measure(
    reference: NDArray[np.uint8],
    candidate: NDArray[np.uint8],
    previous: tuple[NDArray[np.uint8], NDArray[np.uint8]] | None,
) -> _Frame:
    """Measure one frame; `previous` holds the frame before it, of each clip, or None at the first."""
    error = candidate.astype(np.int16) - reference  # (H, W, 3), -255..255
    magnitude = np.abs(error)
    flicker = math.nan
    if previous is not None:
        change = error - (previous[1].astype(np.int16) - previous[0])  # -510..510
        flicker = float(np.abs(change).mean(dtype=np.float64))
    max_abs = int(magnitude.max())
    return _Frame(
        mean_square=int(np.square(error, dtype=np.int32).sum(dtype=np.int64)) / error.size,
        ssim=_ssim(reference, candidate) if max_abs else 1.0,  # of equal frames it is 1 by definition
        mad=int(magnitude.sum(dtype=np.int64)) / error.size,
        max_abs=float(max_abs),
        flicker=flicker,
        luminance_reference=luminance_grid(reference),
        luminance_candidate=luminance_grid(candidate),
    )


def _ssim(reference: NDArray[np.uint8], candidate: NDArray[np.uint8]) -> float:
    if min(reference.shape[:2]) < SSIM_WINDOW:
        return math.nan
    from skimage.metrics import structural_similarity  # takes 0.2 s to import, and equal frames want none

    return float(structural_similarity(reference, candidate, win_size=SSIM_WINDOW, channel_axis=-1, data_range=PEAK))


def _psnr_db(mean_square: float) -> float:
    return math.inf if mean_square == 0 else 10 * math.log10(PEAK**2 / mean_square)
