"""The golden of a case that another GPU made: harmless variation that is there already and need not be run.

The same official code with the same kernels' names has other bits on another GPU, and nobody calls that a defect. Of a
golden that keeps little, what it keeps is compared; what is not of one thing on both sides is left out
(`parity.diff.left_out`), and such a group has no floor from here.
"""

from typing import Final

import torch

from parity.calibrate.drift import CandidateDrift, SketchedRun, compare_with_golden
from parity.diff.runs import GoldenSubset
from parity.diff.traces import compare_traces
from parity.runs.environment import fingerprint
from parity.runs.folder import TRACE_FILE, Run
from parity.runs.golden import golden_of, has_golden
from runners.case import Case

ANOTHER_GPU: Final = "another_gpu"


def golden_of_another_gpu(case: Case, device: torch.device) -> Run | None:
    """The golden of a case, if a GPU of another kind than this device made it and it has a trace."""
    if device.type != "cuda" or not has_golden(case.id):
        return None
    golden = golden_of(case.id)
    made_on = golden.manifest.environment.get("device_name")
    there = made_on is not None and made_on != fingerprint(device)["device_name"]
    return golden if there and golden.has(TRACE_FILE) else None


def compare_golden(golden: Run, run: SketchedRun, *, subset: GoldenSubset | None) -> CandidateDrift:
    """The distance of a run from a golden, by what both have."""
    kept = None if subset is None else subset.pattern
    return CandidateDrift(
        outputs=compare_with_golden(golden, run),
        taps=compare_traces(golden.trace, run.trace, run.flow, offered=kept),
        flow=run.flow,
        kept=kept,
    )
