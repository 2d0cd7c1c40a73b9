"""The changes between two official releases, as a table: one row a named change, then all together and the rest."""

from rich import box
from rich.table import Table
from rich.text import Text

from parity.identify.effect import ReleaseEffect
from parity.identify.releases import ReleaseChange
from parity.report.terminal import Terminal
from parity.report.words import number
from runners.printable import printable

NOTHING = ("nothing: every bit is equal", "-", "-", "-")


def draw_release_change(console: Terminal, found: ReleaseChange) -> None:
    """Print the named changes with what each does by itself, if that was measured, and the whole difference."""
    table = Table(
        box=box.SIMPLE_HEAD, title=f"From release {found.old} to {found.new}", title_justify="left", pad_edge=False
    )
    for name in ("change", "first tap it moves", "taps, max / median", "frames", "sound"):
        table.add_column(name, overflow="fold", no_wrap=name == "taps, max / median")
    for change in found.changes:
        undone = "" if change.on else ", undone"
        cells = ("not measured", "", "", "") if change.name not in found.alone else _cells(found.alone[change.name])
        table.add_row(Text(f"{change.name} ({change.since}{undone})\n  {change.words}"), *cells)
    table.add_section()
    if found.together is not None:
        table.add_row("all of them, in the native model", *_cells(found.together))
    table.add_row("the two runs", *_cells(found.total))
    for release, left in found.left.items():
        table.add_row(f"unexplained: native against the run of {release}", *_cells(left))
    console.print(table)
    console.print("Sizes are relative L2; each change is turned alone, and effects do not add up.")
    if found.total.left_out:
        names = " and ".join(found.total.left_out)
        console.print(Text(printable(f"{names} of the two runs are not compared: one side holds padding in them.")))
    for line in _said(found):
        console.print(Text(printable(line)), soft_wrap=True)


def _cells(one: ReleaseEffect) -> tuple[str, str, str, str]:
    if one.bit_equal:
        return NOTHING
    taps = f"{number_of(one.taps_max)} / {number_of(one.taps_median)}" if one.taps else "no trace"
    first = one.first_tap or ("none" if one.taps else "-")
    frames = f"{number_of(one.frames)}, {number(round(one.frames_psnr_db, 1), 'dB')}" if one.frames else "equal"
    return first, taps, frames, number_of(one.audio) if one.audio else "equal"


def number_of(size: float) -> str:
    """A relative size to two digits."""
    return f"{size:.2g}"


def _said(found: ReleaseChange) -> list[str]:
    """The answer in a line or two."""
    if not found.left:
        return [f"{len(found.changes)} named changes; pass --weights to measure what each does by itself."]
    idle = [change.name for change in found.changes if found.alone[change.name].bit_equal]
    lines = [f"Without effect on this request: {', '.join(idle)}."] if idle else []
    if found.explained:
        return [*lines, "Nothing is unexplained: native has every bit of both runs, so these changes are all there is."]
    return [*lines, "Something is unexplained: native does not have every bit of both runs; see the last rows."]
