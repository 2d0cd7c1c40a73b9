"""The table of `docs/measurements/fleet_*.json`, which `bench/fleet.py` saved."""

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from bench.rows import Rows

MIB = 1 << 20
FLEET_COLUMNS = (
    *("executor", "rows", "each row", "wall clock a row, s", "inside a row, s", "until the first, s"),
    *("driver at a tenth, MiB", "driver at the end, MiB", "ended at parity"),
)


def fleet_rows(document: Mapping[str, Any]) -> Rows:
    """A row that comes back at once, and a whole one."""
    found: Rows = []
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


FULL_SIZE_CASE = "ltx_2.3_one_stage_ti2v"  # 121 frames of 768x512
PAPER_COLUMNS = ("of 10,000 rows of official and 3 tiers on 64 H200", "worked out", "from")
ROWS, GPUS, ENGINES = 10_000, 64, ("exact", "fast", "fp8")
FILES_OF_A_RUN = 4  # run.json, outputs, trace, clip
REQUESTS_OF_A_NEW_FILE = 4  # is it there, put, is it there whole, read back
REQUESTS_OF_A_FILE_BROUGHT = 2  # is it there, get
REQUESTS_OF_A_ROW = 4  # picture (two), the official record, the result's record


def paper_rows(fleet: Mapping[str, Any], samples: Sequence[Mapping[str, Any]], golden: Mapping[str, Any]) -> Rows:
    """The cost of ten thousand rows at full size, from what was measured of one.

    Args:
        fleet: of `bench/fleet.py`, for what a row weighs at the driver.
        samples: timings at full size.
        golden: `golden.json` of the full-size case, for the bytes of a run.
    """
    whole = golden["history"][-1]["whole"]
    run_bytes = sum(entry["bytes"] for entry in whole.values())
    row_s = sum(_seconds(samples, runner, tier) for runner, tier in _RUNS)
    hours = ROWS * row_s / GPUS / 3600
    made = (1 + len(ENGINES)) * FILES_OF_A_RUN + len(ENGINES)  # and the numbers of each comparison
    first = REQUESTS_OF_A_ROW + 1 + made * REQUESTS_OF_A_NEW_FILE
    later = first - 1 - FILES_OF_A_RUN * (REQUESTS_OF_A_NEW_FILE - REQUESTS_OF_A_FILE_BROUGHT)
    ledger = fleet["ledger_bytes"] / fleet["whole"]["rows"]
    memory = [point["driver_bytes"] for point in fleet["whole"]["driver"]]
    grown = (memory[-1] - memory[0]) / (fleet["whole"]["driver"][-1]["rows"] - fleet["whole"]["driver"][0]["rows"])
    a_s = ROWS / (hours * 3600)
    return [
        ("a row's four runs, s", f"{row_s:.0f}", "medians end to end, taps not recorded"),
        ("all rows, hours", f"{hours:.1f}", "runs alone; comparison, pages and first imports come to it"),
        ("a run in the store, MB", f"{run_bytes / 1e6:.0f}", f"the golden of {FULL_SIZE_CASE}"),
        (
            "all runs in the store, TB",
            f"{ROWS * (1 + len(ENGINES)) * run_bytes / 1e12:.1f}",
            "every case and box of its own; official runs that are reused are not stored again",
        ),
        (
            "store, GB a second in and out",
            f"{2 * (1 + len(ENGINES)) * run_bytes * a_s / 1e9:.2f}",
            "what is put is read back",
        ),
        ("requests a row", f"{first}, or {later} with its official run reused", "`parity/runs/store.py`"),
        ("requests of all rows, millions", f"{ROWS * first / 1e6:.2f} ({a_s * first:.0f} a second)", "the same"),
        (
            "results at the driver",
            f"{a_s:.2f} a second; it takes {1 / fleet['alone']['wall_s_a_row']:.0f}",
            "rows that come back at once",
        ),
        (
            "ledger at the end, MB",
            f"{ROWS * ledger * len(ENGINES) / 1e6:.0f}",
            f"{ledger:.0f} bytes a row of one engine",
        ),
        (
            "driver's memory at the end, MiB",
            f"{(memory[0] + max(grown, 0) * ROWS * len(ENGINES)) / MIB:.0f}",
            f"{max(grown, 0):.0f} bytes a row of one engine",
        ),
        ("store's history, MB a call", f"{ROWS * len(ENGINES) * 150 / 1e6:.1f}", "about 150 bytes a cell"),
    ]


_RUNS = (("official", "exact"), *(("native", tier) for tier in ENGINES))


def _seconds(samples: Sequence[Mapping[str, Any]], runner: str, tier: str) -> float:
    """Median end to end of a runner at full size on an H200."""
    times = [
        run["times"]["end_to_end_s"]
        for document in samples
        for run in document["runs"]
        if (run["case"], run["runner"], run["tier"]) == (FULL_SIZE_CASE, runner, tier)
        and "H200" in run["machine"]["device"]
    ]
    return float(statistics.median(times))
