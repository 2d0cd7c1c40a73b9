"""The drift of the model by its own rounding at full size: the floor below which no engine can be judged.

    python bench/floors.py blocks --out FILE [--case ID] [--steps 0,15,29]
    python bench/floors.py run    --out FILE [--case ID] [--num-steps N] [--runs FOLDER]
    python bench/floors.py port   --out FILE [--case ID] [--num-steps N] [--runs FOLDER] [--floors FILE]

`blocks` runs official and native in lockstep, every block of every pass of some steps fed the official inputs, and
holds both to the official block in fp32, one block at a time: what bf16 costs each block by itself, and what another
attention kernel would. It needs little more memory than one run. `run` makes three free runs with all taps, official
in fp32 (the oracle; about 80 GB for the transformer at full size), official and native in bf16, and keeps how far the
latter two are from the first at every step and block: what bf16 costs by the end. `port` makes free runs of official
and diffusers in bf16 and keeps where it first leaves the official model, by how much over the floor (of `--floors`,
what `run` wrote, else by rule), and the worst error of each group of taps.

What is kept is the worst of the four passes for each step, block, stream and point, to three digits, as
`table[stream/point][step][block]`; `run` also writes floors that `parity explain --floors FILE` reads.
"""

import argparse
import math
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from gpu import header, options

from parity.diff.runs import compare_runs
from parity.explain.diagnosis import FLOORS_SCHEMA_VERSION, diagnose
from parity.explain.oracle import Arbitration, arbitrate, tally
from parity.isolate.isolation import Isolation, isolate
from parity.report.explanation import explanation_document
from parity.runs.execute import device_named, run_to_folder, writing_trace
from parity.runs.folder import Run, read_run
from parity.runs.golden import find_case
from parity.taps.name import group_of, place_of
from parity.trace.atomic import write_json_atomic
from runners.case import Case, case_document
from runners.catalogue import open_runner
from runners.clock import Quiet
from runners.forge.weights import weights_named
from runners.protocol import RunOptions
from runners.weights import Weights

Table = dict[str, dict[str, dict[str, float]]]  # stream/point, step, block


def rounded(value: float) -> float:
    """Three significant digits."""
    return float(f"{value:.3g}")


def worst_of_passes(errors: Iterable[tuple[str, float]]) -> Table:
    """The largest error of each stream and point at each step and block; nan where one of the passes has none."""
    table: Table = {}
    for tap, error in errors:
        if "/block/" not in tap:
            continue
        at = place_of(tap)
        row = table.setdefault(f"{at.stream}/{at.part}", {}).setdefault(str(at.step), {})
        old = row.get(str(at.block), 0.0)
        row[str(at.block)] = math.nan if math.isnan(error) or math.isnan(old) else max(old, rounded(error))
    return table


def elsewhere(errors: Iterable[tuple[str, float]]) -> dict[str, float]:
    """The errors of places that are not in a block, by name."""
    return {tap: rounded(error) for tap, error in errors if "/block/" not in tap}


def blocks(arguments: argparse.Namespace, device: torch.device, weights: Weights) -> dict[str, Any]:
    """Every block by itself, on the official inputs."""
    steps = [int(step) for step in arguments.steps.split(",")]
    case = find_case(arguments.case)
    found = isolate(weights, case, RunOptions(device=device), steps=steps, oracle=True)
    rows = [row for row in found.rows if row.oracle is not None]
    print(
        f"{len(found.rows)} places, {sum(row.error != 0 for row in found.rows)} of them differ, "
        f"{len(found.culprits)} by more than harmless noise",
        flush=True,
    )
    return {
        "case": case_document(case),
        "measured_steps": steps,
        "places": len(found.rows),
        "places_that_differ": sum(row.error != 0 for row in found.rows),
        "culprits": [row.where for row in found.culprits],
        "official_to_oracle": worst_of_passes((row.where, row.oracle.official) for row in rows if row.oracle),
        "native_to_oracle": worst_of_passes((row.where, row.oracle.candidate) for row in rows if row.oracle),
        "another_attention_kernel": worst_of_passes(harmless(found)),
        "native_added_elsewhere": elsewhere((row.where, row.error) for row in found.rows if row.error != 0),
        "peak_bytes": peak_bytes(device),
    }


def harmless(found: Isolation) -> Iterable[tuple[str, float]]:
    """The error that another attention kernel adds at each place where it was tried."""
    return ((row.where, row.harmless) for row in found.rows if row.harmless is not None)


def case_named(arguments: argparse.Namespace) -> Case:
    """The case, with fewer steps if so asked."""
    changes = {} if arguments.num_steps is None else {"request.num_inference_steps": arguments.num_steps}
    return find_case(arguments.case, changes)


def run(arguments: argparse.Namespace, device: torch.device, weights: Weights) -> dict[str, Any]:
    """Three free runs."""
    case = case_named(arguments)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(arguments.runs or temporary)
        oracle = traced("official", torch.float32, case, weights, device, folder / "oracle")
        official = traced("official", torch.bfloat16, case, weights, device, folder / "official")
        native = traced("native", torch.bfloat16, case, weights, device, folder / "native")
        found = arbitrate(oracle.trace, official.trace, native.trace)
    votes = tally(found)
    print(f"nearer to fp32: native {votes.candidate}, official {votes.official}, neither {votes.neither} taps")
    return {
        "case": case_document(case),
        "dtype": "bf16",
        "times_s": {one.folder.name: one.manifest.end_to_end_s for one in (oracle, official, native)},
        "peak_bytes": {one.folder.name: one.manifest.peak_bytes for one in (oracle, official, native)},
        "nearer": vars(votes),
        "official_to_oracle": worst_of_passes((tap, one.official) for tap, one in found.items()),
        "native_to_oracle": worst_of_passes((tap, one.candidate) for tap, one in found.items()),
        "official_elsewhere": elsewhere((tap, one.official) for tap, one in found.items()),
        "native_elsewhere": elsewhere((tap, one.candidate) for tap, one in found.items()),
        "floors": floors_of(found),
    }


def port(arguments: argparse.Namespace, device: torch.device, weights: Weights) -> dict[str, Any]:
    """Official and diffusers, free."""
    case = case_named(arguments)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(arguments.runs or temporary)
        official = traced("official", torch.bfloat16, case, weights, device, folder / "official")
        ported = traced("diffusers", torch.bfloat16, case, weights, device, folder / "diffusers")
        found = diagnose(official, ported, floors=None if arguments.floors is None else Path(arguments.floors))
        outputs = compare_runs(official, ported)
    said = explanation_document(found)
    print("\n".join(said["lines"]), flush=True)
    return {
        "case": case_document(case),
        "runner": "diffusers",
        "details": ported.manifest.details,
        "times_s": {one.manifest.runner: one.manifest.end_to_end_s for one in (official, ported)},
        "step_s": {one.manifest.runner: one.manifest.step_s for one in (official, ported)},
        "peak_bytes": {one.manifest.runner: one.manifest.peak_bytes for one in (official, ported)},
        "lines": said["lines"],
        "roots": said["roots"],
        "ends": said["ends"],
        "metrics": {name: rounded(value) for name, value in outputs.metrics.items() if math.isfinite(value)},
    }


def traced(runner: str, dtype: torch.dtype, case: Case, weights: Weights, device: torch.device, out: Path) -> Run:
    """One run with all taps; a finished one is not repeated."""
    if not out.exists():
        options = RunOptions(device=device, dtype=dtype)
        opened = open_runner(runner, weights, options)
        run_to_folder(opened, case, weights, options, out, Quiet(), writing_trace("*", "sketch"))
        if device.type == "cuda":
            torch.cuda.empty_cache()
    done = read_run(out)
    print(f"{out.name:<9} {done.manifest.end_to_end_s:7.2f} s, {done.manifest.peak_bytes / 2**30:.1f} GiB", flush=True)
    return done


def floors_of(found: Mapping[str, Arbitration]) -> dict[str, float]:
    """The official run's distance from the oracle, the worst of the taps that share a floor."""
    floors: dict[str, float] = {}
    for tap, one in found.items():
        group = group_of(tap)
        floors[group] = max(floors.get(group, 0.0), rounded(one.official))
    return floors


def peak_bytes(device: torch.device) -> int:
    """Most memory that was in use on the device so far."""
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else 0


def main() -> None:
    """Measure and save."""
    parser = options(__doc__)
    kinds = {"blocks": blocks, "run": run, "port": port}
    parser.add_argument("kind", choices=kinds)
    parser.add_argument("--steps", default="0,15,29")
    parser.add_argument("--num-steps", type=int)
    parser.add_argument("--runs")
    parser.add_argument("--floors")
    arguments = parser.parse_args()
    device = device_named(arguments.device)
    measured = kinds[arguments.kind](arguments, device, weights_named(arguments.weights, device))
    head = {**header(f"floors_{arguments.kind}", arguments, device), "schema_version": FLOORS_SCHEMA_VERSION}
    write_json_atomic(Path(arguments.out), {**head, **measured})


if __name__ == "__main__":
    main()
