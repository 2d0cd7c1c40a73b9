"""The runs and isolations of a suite: what is there already is kept, and what is missing is made if there is time."""

from collections.abc import Sequence
from pathlib import Path

import torch

from parity.diff.isolated import bound_runs, read_isolated
from parity.isolate.saved import save_isolated
from parity.runs.child import ChildRunner, environment_in
from parity.runs.environment import fingerprint_of_runs
from parity.runs.execute import run_to_folder, writing_trace
from parity.runs.folder import TRACE_FILE, Run, read_run
from parity.suite.plan import OfficialCheckout, SuitePlan
from parity.taps.dataflow import Dataflow
from parity.taps.pattern import require_choice
from runners.case import Case, case_document
from runners.catalogue import open_runner
from runners.errors import RunError
from runners.files import sha256_of
from runners.protocol import Runner, RunOptions
from runners.weights import num_blocks


def make_run(plan: SuitePlan, case: Case, runner: str, target: Path, *, replace: bool) -> None:
    """Run a case and leave a run folder, in place of a finished one if that may be replaced.

    Raises: ParityError as the runner does.
    """
    if plan.taps is not None:
        require_choice(Dataflow(case, num_blocks(plan.weights)).taps, plan.taps)
    code = _code(plan, case, runner)
    options = RunOptions(device=plan.device)
    root = None if code is None else code.root
    with plan.progress(f"{runner} {case.id}") as progress:
        engine: Runner
        if code is None or code.python is None:
            engine = open_runner(runner, plan.weights, options, official_root=root)
        else:
            engine = ChildRunner(
                python=code.python,
                name=runner,
                weights=plan.weights,
                options=options,
                beside=target,
                official_root=root,
                threads=torch.get_num_threads(),
            )
        tracing = None if plan.taps is None else writing_trace(plan.taps, "sketch")
        run_to_folder(engine, case, plan.weights, options, target, progress, tracing, replace=replace)
    if plan.device.type == "cuda":
        torch.cuda.empty_cache()  # the next run's peak is its own


def run_is_there(plan: SuitePlan, case: Case, runner: str, target: Path) -> bool:
    """True if a finished run of this request, from this code and environment, is there already."""
    try:
        run = read_run(target)
    except RunError:
        return False
    code = _code(plan, case, runner)
    if code is None or code.python is None:
        expected = fingerprint_of_runs(plan.device, case.reference)
    else:
        expected = environment_in(code.python, plan.device, case.reference)
    return (
        run.manifest.case == case_document(case)
        and run.manifest.inputs == {image.path: sha256_of(case.image_path(image)) for image in case.request.images}
        and run.manifest.weights_hash == plan.weights.of_pipeline(case.pipeline).hash
        and run.has(TRACE_FILE) == (plan.taps is not None)
        and run.manifest.environment == expected
    )


def make_isolation(plan: SuitePlan, case: Case, path: Path, references: Sequence[Run], native: Run) -> None:
    """Isolate native on a case and leave what a gate judges. Raises: OutOfMemoryError, else as the runners do."""
    options, runs = RunOptions(device=plan.device), bound_runs(references, native)
    with plan.progress(f"isolate {case.id}") as progress:
        save_isolated(path, plan.weights, case, options, plan.steps[case.id], runs, progress)
    if plan.device.type == "cuda":
        torch.cuda.empty_cache()


def isolation_is_there(plan: SuitePlan, path: Path, references: Sequence[Run], native: Run) -> bool:
    """True if isolated errors of this very run, at all the steps that are asked for, are there already."""
    try:
        return set(plan.steps[native.case_id]) <= set(read_isolated(path, references, native).steps)
    except RunError:
        return False


def _code(plan: SuitePlan, case: Case, runner: str) -> OfficialCheckout | None:
    return plan.code_of(case) if runner == "official" else None
