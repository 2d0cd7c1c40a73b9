"""`parity suite`: the main job. Official and native run the same cases; one table ends in a verdict."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from parity.cli.progress import progress_of
from parity.cli.verb import out, verb

if TYPE_CHECKING:
    import torch

    from parity.diff.runs import RunsDiff
    from parity.judge.verdict import Verdict
    from parity.trace.bundle import Run
    from runners.case import Case
    from runners.weights import Weights

WORDS = {0: "PARITY", 1: "NOT AT PARITY", 2: "COULD NOT JUDGE"}


@dataclass(frozen=True, kw_only=True)
class Line:
    """One comparison of the table."""

    case: str
    what: str
    found: "RunsDiff"
    verdict: "Verdict"
    times_s: tuple[float, float]

    @property
    def code(self) -> int:
        """The verdict's exit code."""
        return self.verdict.exit_code


@verb
def suite(
    case: Annotated[list[str], typer.Option(help="Id under golden/ or path of a TOML file; repeat for more.")],
    weights: Annotated[str, typer.Option(help="Folder with ltx-2.3*.safetensors and Gemma, or forge:PRESET:SEED.")],
    folder: Annotated[Path, typer.Option("--out", help="Folder for the runs, CASE/official and CASE/native.")],
    device: Annotated[str, typer.Option(help="cpu, cuda or cuda:N.")] = "cpu",
    threads: Annotated[int | None, typer.Option(help="CPU threads; part of the environment.")] = None,
    taps: Annotated[str | None, typer.Option(help="Record taps whose names match this pattern, '*' for all.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Keep runs that are whole and of the same request.")] = False,
    golden: Annotated[bool, typer.Option("--golden", help="Judge against the recorded goldens too.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress.")] = False,
) -> int:
    """Run official and native on every case, compare all outputs and judge them; the worst verdict is the exit code."""
    import torch

    from parity.judge.verdict import gate_exit_code
    from parity.trace.bundle import read_run
    from parity.trace.golden import find_case
    from parity.trace.record import device_named
    from runners.forge.weights import weights_named

    if threads is not None:
        torch.set_num_threads(max(1, threads))
    where = device_named(device)
    files = weights_named(weights, where)
    lines: list[Line] = []
    for name in case:
        for runner in ("official", "native"):
            _run(find_case(name), runner, files, folder / name / runner, where, taps, resume, quiet)
        official, native = (read_run(folder / name / runner) for runner in ("official", "native"))
        if golden:
            lines += _against_golden(official, native)
        lines.append(_judged("native against official", official, native))
    code = gate_exit_code(*(line.code for line in lines))
    _draw(lines, code)
    return code


def _run(
    case: "Case",
    runner: str,
    weights: "Weights",
    out_folder: Path,
    device: "torch.device",
    taps: str | None,
    resume: bool,
    quiet: bool,
) -> None:
    from parity.trace.record import record_run, recording
    from runners.catalogue import open_runner
    from runners.protocol import RunOptions

    if resume and _already_there(case, weights, device, taps, out_folder):
        out.print(f"{out_folder}: kept, it is whole and of this request", markup=False)
        return
    options = RunOptions(device=device)
    with progress_of(f"{runner} {case.id}", quiet) as progress:
        recorded = None if taps is None else recording(taps, "sketch")
        record_run(open_runner(runner, weights, options), case, weights, options, out_folder, progress, recorded)


def _already_there(case: "Case", weights: "Weights", device: "torch.device", taps: str | None, folder: Path) -> bool:
    """Whether a finished run of this request, from this code and environment, is there already."""
    from parity.trace.bundle import TRACE_FILE, read_run
    from parity.trace.environment import fingerprint
    from runners.case import case_document
    from runners.errors import RunError

    try:
        run = read_run(folder)
    except RunError:
        return False
    return (
        run.record.case == case_document(case)
        and run.record.weights_hash == weights.hash
        and run.record.environment == fingerprint(device)
        and run.has(TRACE_FILE) == (taps is not None)
    )


def _against_golden(official: "Run", native: "Run") -> list[Line]:
    """The live reference against the golden, then native against it; environment first, numbers after."""
    from parity.trace.environment import differences
    from parity.trace.golden import golden_of
    from runners.errors import RunError

    recorded = golden_of(official.case_id)
    environment = differences(recorded.record.environment, official.record.environment)
    same = recorded.record.files["outputs.safetensors"] == official.record.files["outputs.safetensors"]
    for phrase in environment:
        out.print(f"{official.case_id}: environment differs from the golden's, {phrase}", markup=False)
    if not same and not environment:
        raise RunError(
            f"The live official run of {official.case_id!r} differs from its golden, and nothing in the environment "
            "says why. Look with `parity diff`, and bless the new run if the reference moved on purpose."
        )
    return [_judged(f"{run.record.runner} against golden", recorded, run, by_limits=True) for run in (official, native)]


def _judged(what: str, reference: "Run", candidate: "Run", by_limits: bool = False) -> Line:
    from parity.cli.gate import judged, profile_of
    from parity.diff.runs import compare_runs

    found = compare_runs(reference, candidate)
    return Line(
        case=reference.case_id,
        what=what,
        found=found,
        verdict=judged(found, "limits" if by_limits else profile_of(found)),
        times_s=(reference.record.end_to_end_s, candidate.record.end_to_end_s),
    )


def _draw(lines: list[Line], code: int) -> None:
    from parity.report.words import number, sentence

    columns = ("case", "comparison", "judged by", "frames", "sound", "latents", "time", "verdict")
    table = Table(*columns, title="Is it still the official LTX-2.3?")
    for line in lines:
        metrics = line.found.metrics
        frames = f"PSNR {number(metrics['frames.psnr_db.min'])} dB"
        sound = f"SNR {number(metrics['audio.snr_db.min'])} dB"
        worst = max(metrics["video_latent.relative_l2"], metrics["audio_latent.relative_l2"])
        latents = f"L2 {number(worst)}"
        bits = {name: metrics[f"outputs.bit_equal.{name}"] == 1.0 for name in ("frames", "audio")}
        both = all(metrics[f"outputs.bit_equal.{name}"] == 1.0 for name in ("video_latent", "audio_latent"))
        table.add_row(
            line.case,
            line.what,
            "bits" if line.verdict.profile == "exact" else "limits",
            "bit-identical" if bits["frames"] else frames,
            "bit-identical" if bits["audio"] else sound,
            "bit-identical" if both else latents,
            f"{line.times_s[0]:.1f} s / {line.times_s[1]:.1f} s",
            WORDS[line.code],
        )
    out.print(table)
    for line in lines:
        for failure in line.verdict.failures:
            out.print(f"{line.case}, {line.what}: {failure.code} at {failure.where}: {failure.message}", markup=False)
        for row in line.verdict.failed_rows():
            out.print(f"{line.case}, {line.what}: {sentence(row)}", markup=False)
    out.print(f"VERDICT: {WORDS[code]}", style="bold green" if code == 0 else "bold red")
