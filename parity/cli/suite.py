"""`parity suite`: the main job. Official and native run the same cases; one table ends in a verdict."""

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from parity.cli.progress import progress_of
from parity.cli.verb import out, verb

if TYPE_CHECKING:
    import torch

    from parity.diff.diagnosis import Diagnosis
    from parity.report.suite import Line
    from parity.trace.bundle import Run
    from runners.case import Case
    from runners.weights import Weights

RUNNERS = ("official", "native")


@verb
def suite(
    case: Annotated[list[str], typer.Option(help="Id under golden/ or path of a TOML file; repeat for more.")],
    weights: Annotated[str, typer.Option(help="Folder with ltx-2.3*.safetensors and Gemma, or forge:PRESET:SEED.")],
    folder: Annotated[Path, typer.Option("--out", help="Folder for the runs, CASE/official and CASE/native.")],
    device: Annotated[str, typer.Option(help="cpu, cuda or cuda:N.")] = "cpu",
    threads: Annotated[int | None, typer.Option(help="CPU threads; part of the environment.")] = None,
    taps: Annotated[str | None, typer.Option(help="Record and compare taps of this pattern, '*' for all.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Keep runs that are whole and of the same request.")] = False,
    minutes: Annotated[
        float | None, typer.Option(help="Begin no run that would end later; the same call with --resume goes on.")
    ] = None,
    golden: Annotated[bool, typer.Option("--golden", help="Judge against the recorded goldens too.")] = False,
    report: Annotated[Path | None, typer.Option(help="Folder for the table, as JSON and Markdown.")] = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress.")] = False,
) -> int:
    """Run official and native on every case, compare all outputs and judge them; the worst verdict is the exit code.

    A case of a release that is not installed is judged with --golden alone: its golden stands for the official run.
    """
    import torch

    from parity.report.suite import draw_suite, save_suite, suite_code
    from parity.trace.bundle import read_run
    from parity.trace.golden import find_case, golden_of
    from parity.trace.record import device_named
    from runners.forge.weights import weights_named
    from runners.official_files import INSTALLED_RELEASE

    begun_s = time.monotonic()
    if threads is not None:
        torch.set_num_threads(max(1, threads))
    where = device_named(device)
    files = weights_named(weights, where)
    lines: list[Line] = []
    missing: list[str] = []
    longest_s = 0.0  # of the runs so far, which says how long the next may take
    for found in [find_case(name) for name in case]:
        alone = golden and found.reference != INSTALLED_RELEASE
        for runner in RUNNERS[1:] if alone else RUNNERS:
            target = folder / found.id / runner
            start_s = time.monotonic()
            if resume and _already_there(found, files, where, taps, target):
                out.print(f"{target}: kept, it is whole and of this request", markup=False)
            elif minutes is not None and start_s - begun_s + longest_s > minutes * 60:
                missing.append(f"{found.id}/{runner}")
            else:
                _run(found, runner, files, target, where, taps, quiet)
                longest_s = max(longest_s, time.monotonic() - start_s)
        if any(name.startswith(f"{found.id}/") for name in missing):
            continue
        native = read_run(folder / found.id / "native")
        if alone:
            out.print(
                f"{found.id}: official {found.reference} is not installed, its golden stands for it", markup=False
            )
            lines.append(_judged("native against golden", golden_of(found.id), native))
        else:
            official = read_run(folder / found.id / "official")
            if golden:
                lines += _against_golden(official, native, _isolated(found, files, where, folder, native, quiet))
            lines.append(_judged("native against official", official, native))
        if report is not None:
            save_suite(report, lines, missing)  # after each case, so that a run that is stopped leaves what it found
    if report is not None:
        save_suite(report, lines, missing)
    draw_suite(out, lines, missing)
    return suite_code(lines, missing)


def _run(
    case: "Case",
    runner: str,
    weights: "Weights",
    out_folder: Path,
    device: "torch.device",
    taps: str | None,
    quiet: bool,
) -> None:
    import torch

    from parity.trace.record import record_run, recording
    from runners.catalogue import open_runner
    from runners.protocol import RunOptions

    options = RunOptions(device=device)
    with progress_of(f"{runner} {case.id}", quiet) as progress:
        recorded = None if taps is None else recording(taps, "sketch")
        record_run(open_runner(runner, weights, options), case, weights, options, out_folder, progress, recorded)
    if device.type == "cuda":
        torch.cuda.empty_cache()  # the next run's peak is its own


def _already_there(case: "Case", weights: "Weights", device: "torch.device", taps: str | None, folder: Path) -> bool:
    """Whether a finished run of this request, from this code and environment, is there already."""
    from parity.trace.bundle import TRACE_FILE, read_run, sha256_of
    from parity.trace.environment import fingerprint
    from runners.case import case_document
    from runners.errors import RunError

    try:
        run = read_run(folder)
    except RunError:
        return False
    return (
        run.record.case == case_document(case)
        and run.record.inputs == {image.path: sha256_of(case.image_path(image)) for image in case.request.images}
        and run.record.weights_hash == weights.hash
        and run.record.environment == fingerprint(device)
        and run.has(TRACE_FILE) == (taps is not None)
    )


def _isolated(
    case: "Case", weights: "Weights", device: "torch.device", folder: Path, native: "Run", quiet: bool
) -> "Path | None":
    """What native's parts add by themselves, for a verdict by limits; None where no limit is for that, or no trace."""
    from parity.cli.isolate import save_isolated
    from parity.diff.metric import ISOLATED
    from parity.judge.registry import load_registry
    from parity.trace.bundle import TRACE_FILE
    from parity.trace.places import limits_path
    from runners.protocol import RunOptions

    if not native.has(TRACE_FILE) or not limits_path().exists():
        return None
    if not any(name.startswith(ISOLATED) for name in load_registry(limits_path()).limits_of(case.id)):
        return None
    path = folder / case.id / "native_isolated.json"
    with progress_of(f"isolate {case.id}", quiet) as progress:
        save_isolated(path, weights, case, RunOptions(device=device), progress)
    return path


def _against_golden(official: "Run", native: "Run", isolated: "Path | None") -> "list[Line]":
    """The live reference against the golden, then native against it; environment first, numbers after."""
    from parity.trace.golden import golden_of
    from runners.errors import RunError

    recorded = golden_of(official.case_id)
    limits = _has_limits(official.case_id)
    lines = [
        _judged(f"{run.record.runner} against golden", recorded, run, limits, alone)
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


def _has_limits(case_id: str) -> bool:
    from parity.judge.registry import load_registry
    from parity.trace.places import limits_path

    return limits_path().exists() and case_id in load_registry(limits_path()).cases


def _judged(
    what: str, reference: "Run", candidate: "Run", by_limits: bool = False, isolated: "Path | None" = None
) -> "Line":
    """Compare and judge two runs: by limits if so asked, else by bits where the environments allow it."""
    from parity.cli.gate import judged, profile_of
    from parity.diff.runs import compare_runs
    from parity.report.suite import Line
    from runners.errors import RegistryError

    found = compare_runs(reference, candidate, isolated)
    verdict, refusal = None, ""
    try:
        verdict = judged(found, "limits" if by_limits else profile_of(found))
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
    )


def _diagnosed(reference: "Run", candidate: "Run") -> "Diagnosis | None":
    from parity.cli.gate import calibrated_floors
    from parity.diff.diagnosis import diagnose
    from parity.trace.bundle import TRACE_FILE

    if not (reference.has(TRACE_FILE) and candidate.has(TRACE_FILE)):
        return None
    return diagnose(reference, candidate, calibrated=calibrated_floors(reference.case_id))
