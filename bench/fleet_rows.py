"""The table of `docs/measurements/fleet_*.json`, which `bench/fleet.py` saved."""

from collections.abc import Mapping, Sequence
from typing import Any

MIB = 1 << 20
FLEET_COLUMNS = (
    *("executor", "rows", "each row", "wall clock a row, s", "inside a row, s", "until the first, s"),
    *("driver at a tenth, MiB", "driver at the end, MiB", "ended at parity"),
)


def fleet_rows(document: Mapping[str, Any]) -> Sequence[tuple[str, ...]]:
    """A row that comes back at once, and a whole one."""
    found = []
    for name, what in (("alone", "comes back at once"), ("whole", "reference fetched, engine run, judged, stored")):
        one = document[name]
        memory = [point["driver_bytes"] / MIB for point in one["driver"]]
        parity = one["exit_codes"].get("0", 0)
        found.append(
            (
                document["executor"],
                str(one["rows"]),
                what,
                f"{one['wall_s_a_row']:.3f}",
                f"{one['inside_a_row_s']:.3f}" if name == "whole" else "-",
                f"{one['until_first_row_s']:.1f}",
                f"{memory[0]:.0f}",
                f"{memory[-1]:.0f}",
                f"{parity} of {one['rows']}",
            )
        )
    return found


def fleet_machine(document: Mapping[str, Any]) -> str:
    """The machine, and how busy others kept it."""
    machine = document["machine"]
    return f"{machine['cpu']}, {machine['cores']} cores, load before {machine['load_before']:.1f}"
