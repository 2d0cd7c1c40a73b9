"""`parity suite`: the main job. Official and native run the same cases; one table ends in a verdict."""

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from parity.cli.progress import progress_of
from parity.cli.threads import HELP as THREADS_HELP
from parity.cli.threads import compute_on
from parity.cli.verb import out, verb

if TYPE_CHECKING:
    import torch

    from parity.explain.diagnosis import Diagnosis
    from parity.report.suite import Line
    from parity.runs.folder import Run
    from runners.case import Case
    from runners.forge.weights import ForgedWeights
    from runners.weights import WeightsFolder

RUNNERS = ("official", "native")
ISOLATION = "isolation"  # stands beside the runners in the list of what is not there yet


@verb
def suite(
    case: Annotated[list[str], typer.Option(help="Id under golden/ or path of a TOML file; repeat for more.")],
    weights: Annotated[str, typer.Option(help="Folder with ltx-2.3*.safetensors and Gemma, or forge:PRESET:SEED.")],
    folder: Annotated[Path, typer.Option("--out", help="Folder for the runs, CASE/official and CASE/native.")],
    device: Annotated[str, typer.Option(help="cpu, cuda or cuda:N.")] = "cpu",
    threads: Annotated[int | None, typer.Option(help=THREADS_HELP)] = None,
    taps: Annotated[str | None, typer.Option(help="Record and compare taps of this pattern, '*' for all.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Keep runs that are whole and of the same request.")] = False,
    minutes: Annotated[
        float | None, typer.Option(help="Begin no run that would end later; the same call with --resume goes on.")
    ] = None,
    isolate: Annotated[
        list[str] | None, typer.Option(help="Isolate this case, too: what each part of native adds by itself.")
    ] = None,
    isolate_steps: Annotated[
        str | None, typer.Option(help="Denoising steps to isolate beside the first two, such as 15,29.")
    ] = None,
    golden: Annotated[bool, typer.Option("--golden", help="Judge against the recorded goldens too.")] = False,
    official_root: Annotated[
        Path | None, typer.Option(help="Checkout of Lightricks/LTX-2 that runs the cases of its release.")
    ] = None,
    runner_python: Annotated[
        Path | None,
        typer.Option(help="Run that checkout in a process of this interpreter, e.g. other-venv/bin/python."),
    ] = None,
    report: Annotated[Path | None, typer.Option(help="Folder for the table, as JSON and Markdown.")] = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress.")] = False,
) -> int:
    """Run official and native on every case, compare all outputs and judge them; the worst verdict is the exit code.

    A case of a release that is neither installed nor at --official-root is judged with --golden alone: its golden
    stands for the official run.
    """
    from parity.report.suite import draw_suite, save_suite, suite_code
    from parity.runs.execute import device_named
    from parity.runs.folder import read_run
    from parity.runs.golden import find_case, golden_of
    from runners.errors import OutOfMemoryError
    from runners.forge.weights import weights_named
    from runners.official.files import INSTALLED_RELEASE

    left = _TimeLeft(minutes)
    where = device_named(device)
    compute_on(threads, where)
    files = weights_named(weights, where)
    checkout = _checkout(official_root, runner_python)
    cases = [find_case(name) for name in case]
    if golden:
        _require_weights_of_goldens(cases, files)
    chosen = _isolated_cases(cases, isolate or [])
    installed = {found.id for found in cases if found.reference == INSTALLED_RELEASE}  # what isolation can run
    steps = {found.id: _steps_to_isolate(found, isolate_steps) for found in cases if found.id in installed}
    lines: list[Line] = []
    missing: list[str] = []
    longest_s = 0.0  # of the runs so far, which says how long the next may take
    for found in cases:
        code = checkout if checkout is not None and found.reference == checkout.release else None
        alone = golden and code is None and found.id not in installed
        for runner in RUNNERS[1:] if alone else RUNNERS:
            target = folder / found.id / runner
            start_s = time.monotonic()
            of_runner = code if runner == "official" else None
            if resume and _already_there(found, files, where, taps, target, of_runner):
                out.print(f"{target}: kept, it is whole and of this request", markup=False)
            elif left.fits(longest_s):
                _run(found, runner, files, target, where, taps, quiet, of_runner)
                longest_s = max(longest_s, time.monotonic() - start_s)
            else:
                missing.append(f"{found.id}/{runner}")
        if any(name.startswith(f"{found.id}/") for name in missing):
            continue
        native = read_run(folder / found.id / "native")
        isolated = None
        if found.id in installed and (found.id in chosen or (golden and _has_isolated_limits(native))):
            path = folder / found.id / "native_isolated.json"
            if resume and _already_isolated(path, native, steps[found.id]):
                out.print(f"{path}: kept, it is whole and of this run", markup=False)
                isolated = path
            elif left.fits(2 * native.record.end_to_end_s):  # it runs the official model with native beside it
                try:
                    _isolate(path, found, files, where, steps[found.id], quiet)
                    isolated = path
                except OutOfMemoryError as error:  # the runs can still be judged
                    missing.append(f"{found.id}/{ISOLATION}, {error}")
            else:
                missing.append(f"{found.id}/{ISOLATION}")
        if alone:
            out.print(
                f"{found.id}: official {found.reference} is not installed, its golden stands for it", markup=False
            )
            lines.append(_judged("native against golden", golden_of(found.id), native))
        else:
            official = read_run(folder / found.id / "official")
            if golden:
                lines += _against_golden(official, native, isolated)
            lines.append(_judged("native against official", official, native, isolated))
        if report is not None:
            save_suite(report, lines, missing, left.took_s)  # after each case: one that is stopped leaves what it found
    if report is not None:
        save_suite(report, lines, missing, left.took_s)
    draw_suite(out, lines, missing)
    return suite_code(lines, missing)


@dataclass(frozen=True, kw_only=True)
class _Checkout:
    """Official code beside what is installed, and what runs it: None is this process."""

    root: Path
    python: Path | None
    release: str


def _checkout(root: Path | None, python: Path | None) -> _Checkout | None:
    from runners.errors import RunnerError
    from runners.official.files import official_code

    if root is not None:
        return _Checkout(root=root, python=python, release=official_code(root).release)
    if python is not None:
        raise RunnerError("--runner-python runs the checkout that --official-root names; name that, too.")
    return None


def _require_weights_of_goldens(cases: "list[Case]", weights: "WeightsFolder | ForgedWeights") -> None:
    """Raises: RunError for a golden of other weights, before anything is run in vain."""
    from parity.runs.golden import golden_of
    from runners.errors import RunError

    for case in cases:
        recorded = golden_of(case.id).record.weights_hash
        if recorded != weights.hash:
            raise RunError(
                f"The golden of {case.id!r} was recorded with weights {recorded[:12]}; these are {weights.hash[:12]}. "
                "Pass those it was recorded with, or leave --golden out and judge native against official alone."
            )


@dataclass(frozen=True)
class _TimeLeft:
    """The time of a call: what it has taken, and what it may still begin."""

    minutes: float | None
    begun_s: float = field(default_factory=time.monotonic)

    @property
    def took_s(self) -> float:
        """Since the call began."""
        return time.monotonic() - self.begun_s

    def fits(self, expected_s: float) -> bool:
        """Whether something that takes so long would end in time."""
        return self.minutes is None or self.took_s + expected_s <= self.minutes * 60


def _isolated_cases(cases: "list[Case]", named: list[str]) -> set[str]:
    """The ids of cases to isolate. Raises: CaseError for one that is not run."""
    from parity.runs.golden import find_case
    from runners.errors import CaseError
    from runners.official.files import INSTALLED_RELEASE

    chosen = {find_case(name).id for name in named}
    if others := sorted(case.id for case in cases if case.id in chosen and case.reference != INSTALLED_RELEASE):
        raise CaseError(
            f"--isolate names {', '.join(others)}, of a release that is not installed; isolation runs both models in "
            f"one process, so it takes cases of {INSTALLED_RELEASE}."
        )
    if unknown := sorted(chosen - {case.id for case in cases}):
        raise CaseError(f"--isolate names {', '.join(unknown)}, which no --case names; name it there, too.")
    return chosen


def _steps_to_isolate(case: "Case", more: str | None) -> list[int]:
    """The first two denoising steps, which a gate wants, and those that are asked for beside them.

    Raises: ConfigError for a step that there is not.
    """
    from parity.cli.isolate import step_numbers
    from parity.diff.isolated import FIRST_STEPS
    from runners.errors import ConfigError

    count = case.request.num_inference_steps
    steps = sorted({*range(min(FIRST_STEPS, count)), *(step_numbers(more) if more else ())})
    if not 0 <= steps[0] <= steps[-1] < count:
        raise ConfigError(f"--isolate-steps is {more!r}; {case.id!r} has steps from 0 to {count - 1}.")
    return steps


def _run(
    case: "Case",
    runner: str,
    weights: "WeightsFolder | ForgedWeights",
    out_folder: Path,
    device: "torch.device",
    taps: str | None,
    quiet: bool,
    checkout: _Checkout | None,
) -> None:
    import torch

    from parity.runs.child import ChildRunner
    from parity.runs.execute import record_run, recording
    from parity.taps.dataflow import Dataflow
    from parity.taps.pattern import require_choice
    from runners.catalogue import open_runner
    from runners.protocol import Runner, RunOptions
    from runners.weights import num_blocks

    if taps is not None:
        require_choice(Dataflow(case, num_blocks(weights)).taps, taps)
    options = RunOptions(device=device)
    root = None if checkout is None else checkout.root
    with progress_of(f"{runner} {case.id}", quiet) as progress:
        engine: Runner
        if checkout is None or checkout.python is None:
            engine = open_runner(runner, weights, options, official_root=root)
        else:
            engine = ChildRunner(
                python=checkout.python,
                name=runner,
                weights=weights,
                options=options,
                beside=out_folder,
                official_root=root,
                threads=torch.get_num_threads(),
            )
        recorded = None if taps is None else recording(taps, "sketch")
        record_run(engine, case, weights, options, out_folder, progress, recorded)
    if device.type == "cuda":
        torch.cuda.empty_cache()  # the next run's peak is its own


def _already_there(
    case: "Case",
    weights: "WeightsFolder | ForgedWeights",
    device: "torch.device",
    taps: str | None,
    folder: Path,
    checkout: _Checkout | None,
) -> bool:
    """Whether a finished run of this request, from this code and environment, is there already."""
    from parity.runs.child import environment_in
    from parity.runs.environment import fingerprint_of_runs
    from parity.runs.folder import TRACE_FILE, read_run, sha256_of
    from runners.case import case_document
    from runners.errors import RunError

    try:
        run = read_run(folder)
    except RunError:
        return False
    elsewhere = None if checkout is None else checkout.python
    if elsewhere is None:
        expected = fingerprint_of_runs(device, case.reference)
    else:
        expected = environment_in(elsewhere, device, case.reference)
    return (
        run.record.case == case_document(case)
        and run.record.inputs == {image.path: sha256_of(case.image_path(image)) for image in case.request.images}
        and run.record.weights_hash == weights.hash
        and run.has(TRACE_FILE) == (taps is not None)
        and run.record.environment == expected
    )


def _already_isolated(path: Path, native: "Run", steps: list[int]) -> bool:
    """Whether isolated errors of this very run, at all these steps, are there already."""
    from parity.diff.isolated import read_isolated
    from runners.errors import RunError

    try:
        return set(steps) <= set(read_isolated(path, native).steps)
    except RunError:
        return False


def _isolate(
    path: Path,
    case: "Case",
    weights: "WeightsFolder | ForgedWeights",
    device: "torch.device",
    steps: list[int],
    quiet: bool,
) -> None:
    import torch

    from parity.cli.isolate import save_isolated
    from runners.protocol import RunOptions

    with progress_of(f"isolate {case.id}", quiet) as progress:
        save_isolated(path, weights, case, RunOptions(device=device), steps, progress)
    if device.type == "cuda":
        torch.cuda.empty_cache()


def _has_isolated_limits(native: "Run") -> bool:
    """Whether a verdict by limits wants isolated errors: where there is a trace, and a limit for them."""
    from parity.diff.metric import ISOLATED
    from parity.judge.registry import device_of, load_registry
    from parity.runs.folder import TRACE_FILE
    from parity.runs.places import limits_path

    if not native.has(TRACE_FILE) or not limits_path().exists():
        return False
    limits = load_registry(limits_path()).limits_of(native.case_id, device_of(native.record.environment))
    return any(name.startswith(ISOLATED) for name in limits)


def _against_golden(official: "Run", native: "Run", isolated: "Path | None") -> "list[Line]":
    """The live reference against the golden, then native against it; environment first, numbers after."""
    from parity.runs.golden import golden_of
    from runners.errors import RunError

    recorded = golden_of(official.case_id)
    lines = [
        _judged(f"{run.record.runner} against golden", recorded, run, alone)
        for run, alone in ((official, None), (native, isolated))
    ]
    found = lines[0].found
    same = all(value == 1.0 for name, value in found.metrics.items() if name.startswith("outputs.bit_equal."))
    if not same and not found.environment:
        raise RunError(
            f"The live official run of {official.case_id!r} differs from its golden, and nothing in the environment "
            "says why. Look with `parity diff`, and bless the new run if the reference moved on purpose."
        )
    return lines


def _judged(what: str, reference: "Run", candidate: "Run", isolated: "Path | None" = None) -> "Line":
    """Compare two runs and judge them as a gate does."""
    from parity.cli.gate import compared, judged, profile_of
    from parity.diff.isolated import read_isolated
    from parity.report.suite import Line
    from runners.errors import RegistryError

    found = compared(reference, candidate, isolated)
    verdict, refusal = None, ""
    try:
        verdict = judged(found, profile_of(found))
    except RegistryError as error:  # this line cannot be judged; the others can
        refusal = str(error)
    return Line(
        case=reference.case_id,
        what=what,
        found=found,
        verdict=verdict,
        refusal=refusal,
        taps=_diagnosed(reference, candidate),
        records=(reference.record, candidate.record),
        alone=None if isolated is None else read_isolated(isolated, candidate),
    )


def _diagnosed(reference: "Run", candidate: "Run") -> "Diagnosis | None":
    from parity.cli.gate import calibrated_floors
    from parity.explain.diagnosis import diagnose
    from parity.runs.folder import TRACE_FILE

    if not (reference.has(TRACE_FILE) and candidate.has(TRACE_FILE)):
        return None
    return diagnose(reference, candidate, calibrated=calibrated_floors(candidate))
