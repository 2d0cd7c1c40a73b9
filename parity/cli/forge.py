"""`parity forge`: make a checkpoint without the weights."""

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from parity.cli import COULD_NOT_JUDGE
from parity.cli.verb import out, verb


@verb
def forge(
    preset: Annotated[str, typer.Option(help="Size: tiny, odd, small or full.")] = "tiny",
    seed: Annotated[int, typer.Option(help="What the values follow from.")] = 0,
    folder: Annotated[Path | None, typer.Option("--out", help="Folder to write.")] = None,
    device: Annotated[str, typer.Option(help="Where to make the values; the bits are the same.")] = "cpu",
    replace: Annotated[bool, typer.Option("--replace", help="Replace a made checkpoint in --out.")] = False,
    quantization: Annotated[
        str | None, typer.Option(help="fp8_scaled_mm: quantise the checkpoints beforehand, with scales.")
    ] = None,
    check: Annotated[bool, typer.Option("--check", help="Show how the made model behaves.")] = False,
) -> int:
    """Make an LTX-2.3 checkpoint and a Gemma folder whose values follow from a seed."""
    from parity.runs.execute import device_named
    from runners.errors import ConfigError
    from runners.forge.make import forge as make
    from runners.forge.make import prequantized

    if folder is None and not check:
        raise ConfigError("forge needs --out DIR, --check, or both.")
    wanted = prequantized(quantization)
    if wanted is not None and folder is None:
        raise ConfigError(f"forge --quantization {wanted} makes files; add --out DIR.")
    if folder is not None:
        path = make(preset, seed, folder, device_named(device), replace=replace, quantization=wanted)
        out.print(f"made {preset} with seed {seed} in {path}")
    if check:
        from runners.forge.check import check_weights
        from runners.forge.weights import ForgedWeights
        from runners.weights import WeightsFolder

        where = device_named(device)
        made = ForgedWeights(preset, seed, where) if folder is None else WeightsFolder(folder)
        figures = check_weights(made, where, quantization=wanted)
        table = Table("figure", "value", "wanted", "", title=f"How the made model behaves: {preset}, seed {seed}")
        for figure in figures:
            table.add_row(
                figure.name,
                f"{figure.value:.4g}",
                f"{figure.low:g} to {figure.high:g}",
                "ok" if figure.holds else "OUT",
            )
        out.print(table)
        return 0 if all(figure.holds for figure in figures) else COULD_NOT_JUDGE
    return 0
