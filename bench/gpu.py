"""Measurements on a GPU box, each as one small JSON file: speed by turns, cost of taps, bandwidth of the sketch.

    python bench/gpu.py speed   --out FILE [--case ID] [--runners official,native:fast] [--rounds 3] [--minutes 8]
    python bench/gpu.py capture --out FILE [--case ID] [--steps 8] [--rounds 3]
    python bench/gpu.py sketch  --out FILE [--megabytes 50]

`speed` runs the runners by turns (a b, b a, a b, ...), after one shortened run of each that is thrown away, and keeps
every sample: `parity perf FILE --update` makes baselines of it. It saves after each run; the same call on the same box
goes on. `capture` runs native with and without all taps by turns and compares the steps. `sketch` reads tensors that
rotate through more memory than the cache holds, beside a plain read and a plain copy; on CUDA, times are medians
between device events.
"""

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from parity.judge.timed import TimedRun, TimedSamples, read_samples, timed_run
from parity.runs.environment import fingerprint, source_hash
from parity.runs.execute import device_named, run_to_folder, writing_trace
from parity.runs.folder import TRACE_FILE, RunManifest, read_run
from parity.runs.golden import find_case
from parity.trace.atomic import write_json_atomic
from parity.trace.sketch import FLOAT_STATISTICS, INTEGER_STATISTICS, sketch_into, sketch_torch_into
from runners.case import Case
from runners.catalogue import open_runner
from runners.clock import Quiet
from runners.errors import RunError
from runners.forge.weights import weights_named
from runners.protocol import TIERS, RunOptions
from runners.weights import Weights

SCHEMA_VERSION = 1
WARMUP_RUNS = 1  # of each runner
WARMUP_STEPS = 2  # diffusers has no schedule of a single step


def box() -> str:
    """One start of one machine."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def header(kind: str, arguments: argparse.Namespace, device: torch.device) -> dict[str, Any]:
    """The provenance of every measurement."""
    left_out = ("kind", "out", "runs", "floors", "official_root")  # folders of whoever measured
    shown = " ".join(
        f"--{name.replace('_', '-')} {value}"
        for name, value in vars(arguments).items()
        if name not in left_out and value is not None
    )
    asked = [arguments.kind] if "kind" in arguments else []
    return {
        "kind": kind,
        "schema_version": SCHEMA_VERSION,
        "date": datetime.now(UTC).date().isoformat(),
        "command": " ".join(["python", f"bench/{Path(sys.argv[0]).name}", *asked, shown]),
        "box": box(),
        "code_version": source_hash(),
        "environment": fingerprint(device),
    }


def measured(runner: str, case: Case, weights: Weights, device: torch.device, taps: str | None = None) -> RunManifest:
    """Run once and keep the record alone; `native:fast` is its tier fast, `native+cuda:1` has a second device."""
    runner, _, second = runner.partition("+")
    name, _, tier = runner.partition(":")
    options = RunOptions(
        device=device,
        second_device=device_named(second) if second else None,
        tier=next(one for one in TIERS if one == (tier or "exact")),
    )
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        recorded = None if taps is None else writing_trace(taps, "sketch")
        run_to_folder(open_runner(name, weights, options), case, weights, options, out, Quiet(), recorded)
        record = read_run(out).manifest
    if device.type == "cuda":
        torch.cuda.empty_cache()
    return record


def shortened(name: str, steps: int) -> Case:
    """A case with fewer steps, in the first stage where there are two."""
    sigmas = find_case(name).plans[0].sigmas
    if sigmas is None:
        return find_case(name, {"request.num_inference_steps": steps})
    return find_case(name, {"stages.first.sigmas": [*sigmas[:steps], 0.0]})


def speed(arguments: argparse.Namespace, device: torch.device, out: Path) -> None:
    """Runs by turns, every sample kept."""
    weights, case = weights_named(arguments.weights, device), find_case(arguments.case)
    runners = arguments.runners.split(",")
    begun_s, longest_s = time.monotonic(), 0.0
    done: list[TimedRun] = []
    if out.is_file() and (old := read_samples(out)).box == box() and old.code_version == source_hash():
        done = list(old.runs)
    order = [name for turn in range(arguments.rounds) for name in (runners if turn % 2 == 0 else runners[::-1])]
    for runner in dict.fromkeys(order[len(done) :]):
        measured(runner, shortened(arguments.case, WARMUP_STEPS), weights, device)
    for runner in order[len(done) :]:
        start_s = time.monotonic()
        if start_s - begun_s + longest_s > arguments.minutes * 60:
            print(f"out of time after {len(done)} of {len(order)} runs; the same call goes on", flush=True)
            break
        record = measured(runner, case, weights, device)
        done.append(timed_run(record))
        longest_s = max(longest_s, time.monotonic() - start_s)
        steps = statistics.median(record.step_s[1:] or record.step_s)
        print(
            f"{runner:<14} {record.end_to_end_s:7.2f} s, step {steps:.3f} s, {record.peak_bytes / 2**30:.1f} GiB",
            flush=True,
        )
        values = {**header("samples", arguments, device), "warmup_runs": WARMUP_RUNS, "runs": tuple(done)}
        write_json_atomic(out, TimedSamples(**values).document())


def capture(arguments: argparse.Namespace, device: torch.device, out: Path) -> None:
    """Native with all taps against native without, by turns."""
    weights, case = weights_named(arguments.weights, device), shortened(arguments.case, arguments.steps)
    measured("native", shortened(arguments.case, 1), weights, device, "*")
    steps_s: dict[str, list[float]] = {"without": [], "with": []}
    denoising_s: dict[str, list[float]] = {"without": [], "with": []}
    peak_bytes: dict[str, int] = {}
    for turn in range(arguments.rounds):
        for name in ("without", "with") if turn % 2 == 0 else ("with", "without"):
            record = measured("native", case, weights, device, "*" if name == "with" else None)
            if (TRACE_FILE in record.files) != (name == "with"):
                raise RunError(f"The run {name} taps left the files {sorted(record.files)}.")
            steps_s[name] += record.step_s[1:]  # the first carries warm-up
            denoising_s[name].append(record.stage_s["denoising"])
            peak_bytes[name] = max(record.peak_bytes, peak_bytes.get(name, 0))
            print(f"{name:<8} denoising {record.stage_s['denoising']:.3f} s", flush=True)
    medians = {name: statistics.median(values) for name, values in steps_s.items()}
    result = {
        "case": case.id,
        "steps": arguments.steps,
        "step_s": steps_s,
        "denoising_s": denoising_s,
        "peak_bytes": peak_bytes,
        "median_step_s": medians,
        "cost_percent": 100 * (medians["with"] / medians["without"] - 1),
        "trace_peak_bytes": peak_bytes["with"] - peak_bytes["without"],
    }
    write_json_atomic(out, {**header("capture", arguments, device), **result})
    print(
        f"taps cost {result['cost_percent']:+.2f} % of a step, {result['trace_peak_bytes'] / 2**20:.1f} MiB", flush=True
    )


def median_s(work: Callable[[Tensor], object], tensors: list[Tensor], repeats: int) -> float:
    """Return the median time of `work` on one tensor, in seconds."""
    for tensor in tensors[:3]:
        work(tensor)
    if tensors[0].is_cuda:
        events = []
        for turn in range(repeats):
            start, end = (torch.Event("cuda", enable_timing=True) for _ in range(2))
            torch.cuda._sleep(400_000)  # type: ignore[no-untyped-call]  # the host gets ahead meanwhile: no launch time
            start.record()
            work(tensors[turn % len(tensors)])
            end.record()
            events.append((start, end))
        torch.cuda.synchronize()
        return statistics.median(float(start.elapsed_time(end)) for start, end in events) / 1e3
    times = []
    for turn in range(repeats):
        begin = time.perf_counter()
        work(tensors[turn % len(tensors)])
        times.append(time.perf_counter() - begin)
    return statistics.median(times)


def sketch(arguments: argparse.Namespace, device: torch.device, out: Path) -> None:
    """Bytes read a second by a sketch, beside a plain read and copy."""
    elements = int(arguments.megabytes * 1e6 / 2) // 8 * 8
    copies = 12 if device.type == "cuda" else 2
    tensors = [torch.randn(elements, device=device).to(torch.bfloat16) for _ in range(copies)]
    target = torch.empty_like(tensors[0])
    floats = torch.empty(64 + FLOAT_STATISTICS, device=device)
    integers = torch.empty(INTEGER_STATISTICS, dtype=torch.int64, device=device)
    moved = elements * 2
    ways: dict[str, tuple[int, Any]] = {
        "read_sum": (moved, lambda tensor: tensor.sum(dtype=torch.float32)),
        "read_amax": (moved, lambda tensor: tensor.amax()),
        "copy": (2 * moved, target.copy_),  # read and written
        "sketch": (moved, lambda tensor: sketch_into(tensor, floats, integers)),
        "sketch_torch": (moved, lambda tensor: sketch_torch_into(tensor, floats, integers)),
    }
    rates: dict[str, float] = {}
    for name, (size, work) in ways.items():
        rates[name] = size / median_s(work, tensors, arguments.repeats)
        print(f"{name:<14} {rates[name] / 1e9:8.1f} GB/s", flush=True)
    read = max(rates["read_sum"], rates["read_amax"])
    result = {"bytes": moved, "bytes_per_s": rates, "share_of_read": rates["sketch"] / read}
    write_json_atomic(out, {**header("sketch", arguments, device), **result})
    print(f"a sketch reads at {result['share_of_read']:.0%} of a plain read", flush=True)


def options(document: str | None) -> argparse.ArgumentParser:
    """The options of every measurement on a model: where to save, on which device, of which weights and case."""
    parser = argparse.ArgumentParser(description=document, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", required=True)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--weights", default="forge:full:0")
    parser.add_argument("--case", default="ltx_2.3_one_stage_ti2v")
    return parser


def main() -> None:
    """Measure one thing and save it."""
    parser = options(__doc__)
    kinds = {"speed": speed, "capture": capture, "sketch": sketch}
    parser.add_argument("kind", choices=kinds)
    parser.add_argument("--runners", default="official,native")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--minutes", type=float, default=8.0)
    parser.add_argument("--megabytes", type=float, default=50.0)
    parser.add_argument("--repeats", type=int, default=50)
    arguments = parser.parse_args()
    out = Path(arguments.out)
    kinds[arguments.kind](arguments, device_named(arguments.device), out)


if __name__ == "__main__":
    main()
