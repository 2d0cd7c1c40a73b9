"""`parity import`: outputs of an engine that cannot be called from here, as a run folder."""

from pathlib import Path
from typing import Annotated, Any

import typer

from parity.cli.verb import out, verb


@verb
def import_outputs(
    case: Annotated[str, typer.Option(help="Id under golden/, or path of a TOML file: what the engine was asked.")],
    frames: Annotated[Path, typer.Option(help="Folder of PNGs in natural order, or a video file.")],
    runner_name: Annotated[str, typer.Option(help="The engine's name: a-z, 0-9, `_`, `.`, `-`.")],
    folder: Annotated[Path, typer.Option("--out", help="Run folder to write; a finished run there wants --replace.")],
    audio: Annotated[Path | None, typer.Option(help="WAV file; default: the sound of the video file.")] = None,
    latents: Annotated[
        Path | None, typer.Option(help="Safetensors with video_latent and audio_latent, as in outputs.safetensors.")
    ] = None,
    taps_from: Annotated[Path | None, typer.Option(help="Safetensors with tensors from inside the engine.")] = None,
    names: Annotated[Path | None, typer.Option("--map", help="TOML file: which of these tensors is which tap.")] = None,
    weights: Annotated[
        str | None, typer.Option(help="Folder that the engine is said to have loaded, or forge:PRESET:SEED.")
    ] = None,
    reference: Annotated[str | None, typer.Option(help="Official release it follows, instead of the case's.")] = None,
    device: Annotated[str, typer.Option(help="Whose limits hold: cpu, cuda or cuda:N.")] = "cpu",
    dtype: Annotated[str, typer.Option(help="What the engine is said to compute in: bf16 or fp32.")] = "bf16",
    replace: Annotated[bool, typer.Option("--replace", help="Replace a finished run in --out.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="Say nothing.")] = False,
) -> int:
    """Make a run folder of frames and sound that an engine left elsewhere; gate, diff, explain and report read it."""
    from parity.cli.threads import compute_on
    from parity.runs.execute import device_named
    from parity.runs.golden import find_case
    from parity.runs.imported import ImportedFiles, import_run
    from runners.errors import RunnerError
    from runners.forge.weights import weights_named
    from runners.protocol import DTYPES

    if dtype not in DTYPES:
        raise RunnerError(f"--dtype is {dtype!r}; take {' or '.join(DTYPES)}.")
    settings: dict[str, Any] = {} if reference is None else {"reference": reference}
    found = find_case(case, settings)
    where = device_named(device)
    compute_on(None, where)
    imported = import_run(
        folder,
        found,
        ImportedFiles(frames=frames, sound=audio, latents=latents, taps=taps_from, names=names),
        runner=runner_name,
        weights=None if weights is None else weights_named(weights, where),
        device=where,
        dtype=DTYPES[dtype],
        replace=replace,
    )
    if not quiet:
        out.print(f"{runner_name} imported as {found.id}, form {imported.form}, run in {folder}", markup=False)
        for place, what in imported.doubts:
            out.print(f"doubt: {place}: {what}", markup=False)
    return 0
