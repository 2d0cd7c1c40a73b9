"""`parity demo`: the main job in an empty folder, with nothing beside the installed package."""

import shlex
from functools import partial
from pathlib import Path
from typing import Annotated, Final

import typer

from parity.cli.progress import progress_of
from parity.cli.threads import Threads, compute_on
from parity.cli.verb import err, out, verb

CASES: Final = ("tiny_ti2v", "tiny_ti2v_no_v2a")


@verb
def demo(
    folder: Annotated[Path, typer.Option("--out", help="Folder for the made checkpoint and the runs.")] = Path(
        "parity-demo"
    ),
    threads: Threads = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress.")] = False,
) -> int:
    """The main job: make a small checkpoint, run official and native on a photograph, compare and judge them.

    It needs the official code: pip install 'ltx-parity[demo]'. Twice in one folder, it replaces what it made.
    """
    from runners.official.files import INSTALLED_RELEASE, require_release

    require_release(INSTALLED_RELEASE)  # before anything that needs it is imported

    import torch

    from parity.report.suite import draw_suite, suite_code
    from parity.runs.golden import find_case
    from parity.suite.plan import SuitePlan
    from parity.suite.suite import Suite
    from runners.forge.make import forge
    from runners.weights import WeightsFolder

    cpu = torch.device("cpu")
    compute_on(threads, cpu)
    weights = folder / "weights"
    if not quiet:
        err.print(f"making a small checkpoint of random weights in {weights}")
    forge("tiny", 0, weights, cpu, replace=True)
    plan = SuitePlan(
        cases=[find_case(name) for name in CASES],
        weights=WeightsFolder(weights),
        folder=folder / "runs",
        device=cpu,
        taps="*",
        progress=partial(progress_of, quiet=quiet),
        say=out.print,
    )
    found = Suite(plan)
    found.run()
    draw_suite(out, found.lines, found.missing)
    runs = folder / "runs" / CASES[0]
    native, official = shlex.quote(str(runs / "native")), shlex.quote(str(runs / "official"))
    out.print(
        f"next, the page of these runs: parity report {native} --against {official} --out page.html", soft_wrap=True
    )
    out.print("next, an engine of your own: parity new-runner my_engine", soft_wrap=True)
    return suite_code(found.lines, found.missing)
