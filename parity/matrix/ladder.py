"""One engine's step of a row's ladder: its verdict and outputs in numbers, and how far from fp32 it ends.

Different is not worse. So where a matrix asks for it, native, whose bits are the official ones, runs a row's case in
fp32 as well, with what the release rounds on purpose rounded (`parity.calibrate.harmless.oracle_at`), and the final
latents of every engine are held to that run, as multiples of the distance that the official code itself is away in its
own dtype (`parity.explain.oracle`): below 1, an engine is nearer to the truth than the reference.
"""

import math

from torch import Tensor

from parity.explain.oracle import Arbitration
from parity.fleet.row import Rung
from parity.isolate.error import error_of
from parity.judge.verdict import Verdict
from parity.report.suite import SuiteLine
from parity.runs.folder import Run


def rung_of(line: SuiteLine, reference: Run, candidate: Run, oracle: Run | None) -> Rung:
    """The step of an engine; where it could not be judged, of what was compared all the same.

    Args:
        line: the comparison of the two runs, judged.
        reference: the official run.
        candidate: the engine's run.
        oracle: native's run in fp32, if there is one.
    """
    metrics = line.found.metrics
    verdict = line.verdict if isinstance(line.verdict, Verdict) else None
    rows, failed = ((), ()) if verdict is None else (verdict.rows, verdict.failed_rows())
    worst = None if verdict is None else verdict.most_used()

    def number(name: str) -> float | None:
        value = metrics.get(name)
        return None if value is None or not math.isfinite(value) else value

    def from_fp32(name: str) -> float | None:
        if oracle is None:
            return None
        truth, official, its = (getattr(run.outputs(), name) for run in (oracle, reference, candidate))
        return _multiple(truth, official, its)

    return Rung(
        by_bits=verdict is not None and verdict.profile == "exact",
        judged=len(rows),
        held=len(rows) - len(failed),
        most_used="" if worst is None else worst.metric,
        used=None if worst is None or not math.isfinite(worst.used) else worst.used,
        frames_equal=metrics.get("outputs.bit_equal.frames") == 1.0,
        sound_equal=metrics.get("outputs.bit_equal.audio") == 1.0,
        frames_psnr_db=number("frames.psnr_db.min"),
        sound_snr_db=number("audio.snr_db.min"),
        av_offset_ms=number("av.offset_ms.abs"),
        video_from_fp32=from_fp32("video_latent"),
        audio_from_fp32=from_fp32("audio_latent"),
    )


def _multiple(truth: Tensor, official: Tensor, its: Tensor | None) -> float | None:
    """Distance of one from the truth over that of the official run; None without such a latent, or with NaN in it."""
    if its is None:
        return None
    ratio = Arbitration(candidate=error_of(truth, its), official=error_of(truth, official)).ratio
    return ratio if math.isfinite(ratio) else None
