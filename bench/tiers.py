"""Native's tiers before the gate: whole runs with all taps, each judged by limits against the official run.

    python bench/tiers.py --out FILE --case tiny_ti2v --weights build/weights/tiny --device cpu

The official run is the case's golden, or is made first where a case has none. What is kept of each tier: the verdict,
how many limits hold, the one that is used most, and what it does to frames, sound and their offset.
"""

import argparse
import tempfile
from pathlib import Path
from typing import Any

import torch
from gpu import header, options

from parity.judge.gate import gate
from parity.judge.verdict import Verdict
from parity.runs.execute import device_named, run_to_folder, writing_trace
from parity.runs.folder import Run, read_run
from parity.runs.golden import find_case, golden_of, has_golden
from parity.trace.atomic import write_json_atomic
from runners.case import Case
from runners.catalogue import open_runner
from runners.clock import Quiet
from runners.forge.weights import weights_named
from runners.protocol import TIERS, RunOptions
from runners.weights import Weights

SHOWN = ("frames.psnr_db.min", "audio.snr_db.min", "av.offset_ms.abs", "video_latent.relative_l2")


def run_of(runner: str, case: Case, weights: Weights, options: RunOptions, out: Path) -> Run:
    """A run with all taps, in a folder."""
    engine = open_runner(runner, weights, options)
    run_to_folder(engine, case, weights, options, out, Quiet(), writing_trace("*", "sketch"))
    return read_run(out)


def verdict_on(tier: str, case: Case, weights: Weights, device: torch.device, reference: Run) -> Verdict:
    """Run a tier and judge it by limits, whatever its bits."""
    options = RunOptions(device=device, tier=next(one for one in TIERS if one == tier))
    with tempfile.TemporaryDirectory() as folder:
        return gate(reference, run_of("native", case, weights, options, Path(folder) / "run"), profile="limits")


def kept(verdict: Verdict) -> dict[str, Any]:
    """The part of a verdict that is kept."""
    worst = verdict.most_used()
    assert worst is not None, "a comparison by limits has metrics"
    return {
        "outcome": verdict.outcome,
        "limits": len(verdict.rows),
        "failed": sorted(row.metric for row in verdict.failed_rows()),
        "worst": {"metric": worst.metric, "used": worst.used},
        "values": {row.metric: row.value for row in verdict.rows if row.metric in SHOWN},
    }


def main() -> None:
    """Run, judge and save."""
    parser = options(__doc__)
    parser.add_argument("--tiers", default=",".join(TIERS))
    arguments: argparse.Namespace = parser.parse_args()
    device = device_named(arguments.device)
    case, weights = find_case(arguments.case), weights_named(arguments.weights, device)
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        if has_golden(case.id):
            reference = golden_of(case.id)
        else:
            reference = run_of("official", case, weights, RunOptions(device=device), Path(folder) / "official")
        for tier in arguments.tiers.split(","):
            found[tier] = kept(verdict_on(tier, case, weights, device, reference))
            print(f"{tier:<6} {found[tier]}", flush=True)
            document = {**header("tiers", arguments, device), "case": case.id, "tiers": found}
            write_json_atomic(Path(arguments.out), document)  # after each: a call on a GPU box may be cut off


if __name__ == "__main__":
    main()
