"""`parity amplify`: what harmless noise grows to, and the floors that follow."""

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from parity.cli.named import CaseName
from parity.cli.progress import progress_of
from parity.cli.threads import Threads, compute_on
from parity.cli.verb import out, save_or_print, verb
from runners.errors import ConfigError, RunnerError


@verb
def amplify(
    case: CaseName,
    weights: Annotated[str, typer.Option(help="Folder of the model's files, or forge:PRESET:SEED.")],
    runner: Annotated[str, typer.Option(help="official or native.")] = "official",
    steps: Annotated[
        str, typer.Option(help="After which steps to put noise in: start, or numbers, as start,3.")
    ] = "start",
    seed: Annotated[int, typer.Option(help="Of the noise's directions.")] = 0,
    device: Annotated[str, typer.Option(help="cpu, cuda or cuda:N.")] = "cpu",
    threads: Threads = None,
    dtype: Annotated[str, typer.Option(help="bf16 or fp32.")] = "bf16",
    save: Annotated[Path | None, typer.Option("--out", help="Save growth and floors, for `parity explain`.")] = None,
    json: Annotated[bool, typer.Option("--json", help="For machines.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress.")] = False,
) -> int:
    """Move the latents by one unit in the last place and record what becomes of it by the end of the run."""
    from parity.calibrate.amplify import BEFORE_DENOISING
    from parity.calibrate.amplify import amplify as measure
    from parity.report.words import number
    from parity.runs.execute import device_named
    from parity.runs.golden import find_case
    from parity.trace.atomic import require_named_target
    from runners.forge.weights import weights_named
    from runners.protocol import DTYPES, RunOptions

    require_named_target(save)
    if dtype not in DTYPES:
        raise RunnerError(f"--dtype is {dtype!r}; take {' or '.join(DTYPES)}.")
    try:
        after = [BEFORE_DENOISING if part == "start" else int(part) for part in steps.split(",")]
    except ValueError:
        raise ConfigError(f"--steps wants start or numbers, such as start,3; got {steps!r}.") from None
    found_case = find_case(case)
    options = RunOptions(device=device_named(device), dtype=DTYPES[dtype])
    compute_on(threads, options.device)
    with progress_of(f"amplify {found_case.id}", quiet or json) as progress:
        found = measure(
            runner,
            weights_named(weights, options.device),
            found_case,
            options,
            after_steps=after,
            seed=seed,
            progress=progress,
        )
    if save_or_print(found.document, save, json):
        return 0
    for growth in found.growths:
        where = (
            "initial latents" if growth.after_step == BEFORE_DENOISING else f"latents after step {growth.after_step}"
        )
        table = Table("after step", "video", "audio", title=f"one ULP in the {where}, relative L2 of the latents")
        for step, (video, audio) in enumerate(
            zip(growth.curve("video", found.steps), growth.curve("audio", found.steps), strict=True)
        ):
            table.add_row(str(step), number(video), number(audio))
        out.print(table)
        ends = {name: number(growth.errors[f"decode/{name}"]) for name in ("frames", "waveform")}
        out.print(f"frames {ends['frames']}, waveform {ends['waveform']}")
    return 0
