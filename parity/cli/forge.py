"""`parity forge`: make a checkpoint without the weights."""

from pathlib import Path
from typing import Annotated

import typer

from parity.cli.verb import out, verb


@verb
def forge(
    preset: Annotated[str, typer.Option(help="Size: tiny, small or full.")] = "tiny",
    seed: Annotated[int, typer.Option(help="What the values follow from.")] = 0,
    folder: Annotated[Path | None, typer.Option("--out", help="Folder to write.")] = None,
    device: Annotated[str, typer.Option(help="Where to make the values; the bits are the same.")] = "cpu",
    check: Annotated[bool, typer.Option("--check", help="Show how the made model behaves.")] = False,
) -> int:
    """Make an LTX-2.3 checkpoint and a Gemma folder whose values follow from a seed."""
    from parity.trace.record import device_named
    from runners.errors import ConfigError
    from runners.forge.make import forge as make

    if folder is None and not check:
        raise ConfigError("forge needs --out DIR, --check, or both.")
    if folder is not None:
        path = make(preset, seed, folder, device_named(device))
        out.print(f"made {preset} with seed {seed} in {path}", markup=False)
    if check:
        from runners.forge.check import check_preset

        report = check_preset(preset, seed, device_named(device))
        out.print(report.table())
        return 0 if report.good else 2
    return 0
