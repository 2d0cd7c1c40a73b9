"""`parity suite`: the main job. Official and native run the same cases; one table ends in a verdict."""

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from parity.cli.named import CaseNames
from parity.cli.progress import progress_of
from parity.cli.threads import Threads, compute_on
from parity.cli.verb import out, verb


@verb
def suite(
    case: CaseNames,
    weights: Annotated[str, typer.Option(help="Folder with ltx-2.3*.safetensors and Gemma, or forge:PRESET:SEED.")],
    folder: Annotated[
        Path,
        typer.Option("--out", help="The suite's own folder; it replaces the runs in it, CASE/official and so on."),
    ],
    device: Annotated[str, typer.Option(help="cpu, cuda or cuda:N.")] = "cpu",
    threads: Threads = None,
    taps: Annotated[str | None, typer.Option(help="Record and compare taps of this pattern, '*' for all.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Keep runs that are whole and of the same request.")] = False,
    replace: Annotated[
        bool, typer.Option("--replace", help="Take the folder even if runs are in it that no suite made.")
    ] = False,
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
    from parity.cli.isolate import step_numbers
    from parity.report.suite import draw_suite, suite_code
    from parity.runs.execute import device_named
    from parity.runs.golden import find_case
    from parity.suite.plan import (
        SuitePlan,
        TimeLeft,
        checkout_at,
        isolated_cases,
        isolated_steps,
        require_weights_of_goldens,
    )
    from parity.suite.suite import Suite
    from runners.forge.weights import weights_named

    left = TimeLeft(minutes)
    where = device_named(device)
    compute_on(threads, where)
    files = weights_named(weights, where)
    checkout = checkout_at(official_root, runner_python)
    cases = [find_case(name) for name in case]
    if golden:
        require_weights_of_goldens(cases, files)
    plan = SuitePlan(
        cases=cases,
        weights=files,
        folder=folder,
        device=where,
        taps=taps,
        replace=replace,
        resume=resume,
        golden=golden,
        isolate=isolated_cases(cases, isolate or []),
        steps=isolated_steps(cases, step_numbers(isolate_steps) if isolate_steps else ()),
        checkout=checkout,
        left=left,
        report=report,
        progress=partial(progress_of, quiet=quiet),
        say=out.print,
    )
    found = Suite(plan)
    found.run()
    draw_suite(out, found.lines, found.missing)
    return suite_code(found.lines, found.missing)
