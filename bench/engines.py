"""The engines beside each other: the release each follows, the taps equal, where it first departs, the verdict.

    python bench/engines.py --weights build/weights/tiny --save docs/measurements/engines.json

Each engine runs `tiny_ti2v`, or another `--case` where it has that pipeline, held to 1.0.0. `--set KEY=VALUE` changes a
request that an engine cannot be asked as it is, for the reference, too. If `parity identify` says that it follows
another release, it runs once more, held to that one, and that is what its row is about. The reference is computed here
too: the official code where its release is installed, else native's exact tier, which `make gate` holds to that
release's golden. SGLang and ComfyUI are where PARITY_SGLANG_PYTHON, PARITY_COMFYUI_PYTHON and PARITY_COMFYUI_ROOT say;
without these they have no row. The tables are made of the saved file by `bench/table.py`.
"""

import argparse
import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch

from parity.cli.threads import DEFAULT_THREADS
from parity.explain.diagnosis import diagnose
from parity.explain.hints import likely_cause
from parity.identify.identification import identify
from parity.judge.gate import calibrated_floors, gate
from parity.report.causes import cause_words
from parity.report.identification import identification_lines
from parity.runs.case import case_with_pictures
from parity.runs.child import ChildRunner
from parity.runs.environment import fingerprint
from parity.runs.execute import run_to_folder, writing_trace
from parity.runs.folder import Run, read_run
from parity.runs.golden import find_case
from parity.taps.name import place_of
from parity.trace.atomic import write_json_atomic
from runners.case import Case
from runners.catalogue import open_runner
from runners.clock import Quiet
from runners.errors import CaseError
from runners.load import parse_toml
from runners.protocol import CANDIDATE, Capabilities, Runner, RunOptions
from runners.weights import WeightsFolder

CPU: Final = torch.device("cpu")
BF16: Final = RunOptions(device=CPU)
KIND, KIND_OF_OTHERS = "engines", "engines_of_pipelines"
CASE: Final = "tiny_ti2v"
INSTALLED: Final = "1.0.0"  # the official release that this environment has
MOST_CAUSES: Final = 3
TOML: Final = "give a value in TOML, such as --set request.seed=3"


@dataclass(frozen=True, kw_only=True)
class Engine:
    """An engine, and where it runs."""

    name: str
    python: Path | None = None
    root: Path | None = None

    def opened(self, weights: WeightsFolder, beside: Path) -> Runner:
        """A runner of it, in a child process where it has an interpreter of its own."""
        if self.python is None:
            return open_runner(self.name, weights, BF16)
        return ChildRunner(
            python=self.python,
            name=self.name,
            weights=weights,
            options=BF16,
            beside=beside,
            engine_root=self.root,
            threads=torch.get_num_threads(),
        )

    def capabilities(self, weights: WeightsFolder) -> Capabilities:
        """Its capabilities; opening it imports nothing of it."""
        return open_runner(self.name, weights, BF16, engine_root=self.root).capabilities


def engines_here() -> list[Engine]:
    """The engines that can be run: two here, and those whose variables are set."""
    named = {name: os.environ.get(f"PARITY_{name}") for name in ("SGLANG_PYTHON", "COMFYUI_PYTHON", "COMFYUI_ROOT")}
    found = [Engine(name="native"), Engine(name="diffusers")]
    if python := named["SGLANG_PYTHON"]:
        found.append(Engine(name="sglang", python=Path(python)))
    if (python := named["COMFYUI_PYTHON"]) and (root := named["COMFYUI_ROOT"]):
        found.append(Engine(name="comfyui", python=Path(python), root=Path(root)))
    return found


def settings(pairs: Sequence[str]) -> dict[str, Any]:
    """Keys of a case with their values, of KEY=VALUE with a value in TOML. Raises: CaseError."""
    parted = [pair.partition("=") for pair in pairs]
    return {key: parse_toml(f"value = {text}", f"--set {key}", CaseError, TOML)["value"] for key, _, text in parted}


def case_of_release(case: str, release: str, changes: Mapping[str, Any]) -> Case:
    """The same request, held to a release."""
    return find_case(case if release == INSTALLED else f"release_{release}_{case}", dict(changes))


def reference(case: Case, weights: WeightsFolder, folder: Path) -> Run:
    """The run taken as true, made once a release."""
    out = folder / f"reference-{case.reference}"
    if not out.exists():
        name = "official" if case.reference == INSTALLED else "native"
        taps = writing_trace("*", "sketch")
        runner = open_runner(name, weights, BF16)
        run_to_folder(runner, case, weights, BF16, out, Quiet(), taps)
    return read_run(out)


def row(engine: Engine, named: str, changes: Mapping[str, Any], weights: WeightsFolder, folder: Path) -> dict[str, Any]:
    """One engine, measured on a case of 1.0.0 or on that of the release that it follows."""
    release, out = INSTALLED, folder / f"{engine.name}-{INSTALLED}"
    case = case_of_release(named, release, changes)
    run = made(engine, case, weights, out)
    found = identify(run, case_with_pictures(run), weights, CPU)
    if found.release != release and found.release in engine.capabilities(weights).releases:
        release, out = found.release, folder / f"{engine.name}-{found.release}"
        case = case_of_release(named, release, changes)
        run = made(engine, case, weights, out)
        found = identify(run, case_with_pictures(run), weights, CPU)
    lines = identification_lines(found)
    return measured(engine.name, run, reference(case, weights, folder), release, lines[0])


def measured(name: str, run: Run, true: Run, release: str, identified: str) -> dict[str, Any]:
    """A run of an engine beside the one taken as true, by bits, by what is beyond noise, and by its verdict."""
    why = diagnose(true, run, calibrated=calibrated_floors(run))
    first = next(iter(why.bits.firsts), None)
    roots = [root.tap for root in why.divergence.roots] or [*why.bits.firsts[:1]]
    causes = [cause_words(likely_cause([place_of(tap)]), why.flow) for tap in roots]
    return {
        "engine": name,
        "candidate": run.manifest.details.get(CANDIDATE) or [named(name, run)],
        "case": run.case_id,
        "release": release,
        "reference": true.manifest.runner,
        "identified": identified,
        "taps": why.bits.compared,
        "taps_equal": why.bits.equal,
        "findings": [finding.code for finding in why.divergence.findings if finding.code != "environment_mismatch"],
        "first_bits": None if first is None else place_of(first).words(),
        "first_bits_tap": first,
        "first_bits_relative_l2": None if first is None else why.traces.errors.get(first),
        "departs": [root.tap for root in why.divergence.roots],
        "causes": list(dict.fromkeys(causes))[:MOST_CAUSES],
        "outcome": gate(true, run).outcome,
        "end_to_end_s": run.manifest.end_to_end_s,
    }


def named(name: str, run: Run) -> str:
    """An engine of this environment, with its version where it has one of its own."""
    return " ".join([name, *filter(None, [run.manifest.details.get(f"{name}_version")])])


def made(engine: Engine, case: Case, weights: WeightsFolder, out: Path) -> Run:
    """A run of an engine with every tap kept whole, which identification goes furthest with."""
    run_to_folder(engine.opened(weights, out), case, weights, BF16, out, Quiet(), writing_trace("*", "full"))
    return read_run(out)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure every engine there is, and save what came of it."""
    parser = argparse.ArgumentParser(description="Hold every engine there is to the release it follows.")
    parser.add_argument("--weights", required=True, type=Path)
    parser.add_argument(
        "--case", default=CASE, help="id of a tiny case of 1.0.0; engines without its pipeline have no row"
    )
    parser.add_argument(
        "--set",
        default=[],
        action="append",
        metavar="KEY=VALUE",
        help="of the case, the value in TOML; may be repeated",
    )
    parser.add_argument("--save", required=True, type=Path)
    given = parser.parse_args(arguments)
    torch.set_num_threads(DEFAULT_THREADS)
    weights = WeightsFolder(given.weights)
    changes = settings(given.set)
    with tempfile.TemporaryDirectory() as folder:
        pipeline = find_case(given.case, changes).pipeline
        able = [engine for engine in engines_here() if pipeline in engine.capabilities(weights).pipelines]
        rows = [row(engine, given.case, changes, weights, Path(folder)) for engine in able]
    kind = KIND if given.case == CASE else KIND_OF_OTHERS
    document = {"kind": kind, "environment": fingerprint(CPU), "set": given.set, "rows": rows}
    write_json_atomic(given.save, document)


if __name__ == "__main__":
    main()
