"""Every pipeline of one official release: official and native on its tiny request, with and without V2A, by bits.

    python bench/pipelines.py --release 1.0.0 --weights build/weights/tiny --save docs/measurements/pipelines_1.0.0.json
    python bench/pipelines.py --release 1.2.0 --official-root CHECKOUT_120 --official-python PYTHON_120 ...

The requests are those of the tiny cases of 1.0.0, held to the release; a LoRA and weights kept as e4m3 go through one
stage, and with `--scaled-weights`, which `parity forge --quantization fp8_scaled_mm` makes, products of e4m3 numbers
through one and two. Both sides run here and now, record all taps and are compared. The table is made of the saved files
by `bench/table.py`, which takes what ran on a GPU from the suites of `make parity-gpu`.
"""

import argparse
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import msgspec
import torch

from parity.cli.threads import DEFAULT_THREADS
from parity.diff.metric import BIT_EQUALITIES
from parity.report.suite import SuiteLine
from parity.runs.environment import fingerprint
from parity.runs.golden import find_case
from parity.suite.plan import OfficialCheckout, SuitePlan, checkout_at
from parity.suite.suite import Suite
from parity.trace.atomic import write_json_atomic
from runners.case import Case
from runners.clock import Quiet
from runners.forge.make import LORA_NAME
from runners.loras import with_loras
from runners.official.files import INSTALLED_RELEASE
from runners.weights import WeightsFolder

CPU: Final = torch.device("cpu")
KIND: Final = "pipelines"
CASES: Final[Mapping[str, str]] = {
    "one_stage": "tiny_ti2v",
    "distilled": "tiny_distilled",
    "two_stage": "tiny_two_stage",
    "two_stage_hq": "tiny_two_stage_hq",
    "keyframes": "tiny_keyframes",
}
WITH_LORA, WITH_FP8_CAST = "one_stage, a LoRA", "one_stage, fp8_cast"
SCALED_CASES, WITH_FP8_SCALED = ("one_stage", "distilled"), "one_stage and distilled, fp8_scaled_mm"
LORA_STRENGTH: Final = 0.5


def requests(
    release: str, weights: Path, skip_v2a: bool, scaled: Path | None = None
) -> Iterator[tuple[str, Case, Path]]:
    """Each pipeline's request, held to a release, with its name in the table before it and its weights after it."""
    settings = {"reference": release, "switches.skip_v2a_cross_attn_for_video_gt": skip_v2a}
    for pipeline, case in CASES.items():
        yield pipeline, find_case(case, settings), weights
    plain = find_case(CASES["one_stage"], settings)
    yield WITH_LORA, with_loras(plain, [f"{weights / LORA_NAME}:{LORA_STRENGTH}"]), weights
    yield WITH_FP8_CAST, msgspec.structs.replace(plain, quantization="fp8_cast"), weights
    if scaled is not None:
        for pipeline in SCALED_CASES:
            of_pipeline = find_case(CASES[pipeline], settings)
            yield WITH_FP8_SCALED, msgspec.structs.replace(of_pipeline, quantization="fp8_scaled_mm"), scaled


def line(pipeline: str, case: Case, found: SuiteLine) -> dict[str, Any]:
    """One comparison, as JSON data."""
    taps = found.taps
    return {
        "pipeline": pipeline,
        "case": case.id,
        "v2a": not case.switches.skip_v2a_cross_attn_for_video_gt,
        "outputs_equal": all(found.found.metrics.get(name) == 1.0 for name in BIT_EQUALITIES),
        "taps": 0 if taps is None else taps.bits.compared,
        "taps_equal": 0 if taps is None else taps.bits.equal,
        "environment_differences": [one.beside for one in found.found.environment],
    }


def compared(case: Case, weights: Path, checkout: OfficialCheckout | None, folder: Path) -> SuiteLine:
    """Official and native on a case, as the suite runs and compares them."""
    plan = SuitePlan(
        cases=[case],
        weights=WeightsFolder(weights),
        folder=folder,
        device=CPU,
        taps="*",
        checkout=checkout,
        progress=lambda _: nullcontext(Quiet()),
        say=lambda _: None,
    )
    suite = Suite(plan)
    suite.run()
    return suite.lines[0]


def main() -> None:
    """Run every pipeline of a release twice on either side, and save what is equal."""
    parser = argparse.ArgumentParser(description="Hold native to every pipeline of an official release.")
    parser.add_argument("--release", required=True)
    parser.add_argument("--official-root", type=Path, help="checkout of a release that is not installed")
    parser.add_argument("--official-python", type=Path, help="interpreter that runs it")
    parser.add_argument("--weights", required=True, type=Path)
    parser.add_argument("--scaled-weights", type=Path, help="quantised beforehand, for a release without TensorRT-LLM")
    parser.add_argument("--save", required=True, type=Path)
    given = parser.parse_args()
    torch.set_num_threads(DEFAULT_THREADS)
    checkout = checkout_at(given.official_root, given.official_python)
    if (INSTALLED_RELEASE if checkout is None else checkout.release) != given.release:
        parser.error(f"--official-root names no checkout of {given.release}")
    lines = []
    for skip_v2a in (False, True):
        for pipeline, case, weights in requests(given.release, given.weights, skip_v2a, given.scaled_weights):
            with tempfile.TemporaryDirectory() as folder:
                lines.append(line(pipeline, case, compared(case, weights, checkout, Path(folder))))
            print(
                {key: lines[-1][key] for key in ("pipeline", "v2a", "taps", "taps_equal", "outputs_equal")}, flush=True
            )
    document = {
        "kind": KIND,
        "release": given.release,
        "date": datetime.now(UTC).date().isoformat(),
        "environment": fingerprint(CPU),
        "lines": lines,
    }
    write_json_atomic(given.save, document)


if __name__ == "__main__":
    main()
