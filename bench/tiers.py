"""Native's tiers before the gate: whole runs with all taps, each judged by limits against the recorded official run.

    python bench/tiers.py --out FILE --case tiny_ti2v --weights build/weights/tiny --device cpu

What is kept of each tier: the verdict, how many limits hold, the one that is used most, and what it does to frames,
sound and their offset.
"""

import argparse
import tempfile
from pathlib import Path
from typing import Any

import torch
from gpu import header, options

from parity.judge.gate import gate
from parity.judge.verdict import Row, Verdict
from parity.runs.execute import device_named, run_to_folder, writing_trace
from parity.runs.folder import read_run
from parity.runs.golden import find_case, golden_of
from parity.trace.atomic import write_json_atomic
from runners.case import Case
from runners.catalogue import open_runner
from runners.clock import Quiet
from runners.forge.weights import weights_named
from runners.protocol import TIERS, RunOptions
from runners.weights import Weights

SHOWN = ("frames.psnr_db.min", "audio.snr_db.min", "av.offset_ms.abs", "video_latent.relative_l2")


def verdict_on(tier: str, case: Case, weights: Weights, device: torch.device) -> Verdict:
    """Run a tier and judge it by limits, whatever its bits."""
    run = RunOptions(device=device, tier=next(one for one in TIERS if one == tier))
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        engine = open_runner("native", weights, run)
        run_to_folder(engine, case, weights, run, out, Quiet(), writing_trace("*", "sketch"))
        return gate(golden_of(case.id), read_run(out), profile="limits")


def kept(verdict: Verdict) -> dict[str, Any]:
    """What is kept of a verdict."""
    # A limit of zero that is met counts as used up.
    worst: Row = max(verdict.rows, key=lambda row: 0.0 if row.value == 0 else row.used)
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
    for tier in arguments.tiers.split(","):
        found[tier] = kept(verdict_on(tier, case, weights, device))
        print(f"{tier:<6} {found[tier]}", flush=True)
    document = {**header("tiers", arguments, device), "case": case.id, "tiers": found}
    write_json_atomic(Path(arguments.out), document)


if __name__ == "__main__":
    main()
