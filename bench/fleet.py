"""The cost of the fleet: a thousand rows of an engine that takes no time, on this machine.

    python -m bench.fleet --rows 1000 --executor ray --out docs/measurements/fleet_ray.json

Every row is a whole one: fetched from the store, its official run reused, the engine run, judged, put into the store.
Beside it stands what a row costs that does nothing but come back. The driver's memory is read after every tenth of the
rows. It computes on one thread a row; the load of the machine by others is noted, since it is in the times.
"""

import argparse
import os
import platform
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from parity.fleet.ledger import held_ledger
from parity.fleet.local import this_machine
from parity.fleet.on_ray import RayExecutor
from parity.fleet.row import Row, RowResult
from parity.matrix.drive import MatrixDrive, Submits
from parity.matrix.matrix import run_matrix
from parity.matrix.plan import MatrixPlan, plan_matrix
from parity.runs.store import Store
from parity.trace.atomic import write_json_atomic
from runners.forge.make import forge

MATRIX = """
name = "thousand"
weights = "weights"
cases = ["tiny_ti2v"]
reports = "failing"
"""
DEVICE = '[[devices]]\nname = "{name}"\n'
NATIVE = '[[runners]]\nrunner = "native"\n'
INSTANT = '[[runners]]\nrunner = "{file}:Instant"\nname = "instant"\noptions = {{ run = "{run}" }}\n'
NOTHING = "bench.fleet_row:come_back"


class Measures:
    """A watcher that reads the clock and this process's memory as rows end."""

    def __init__(self, total: int, say: Callable[[str], None] = lambda _: None) -> None:
        """Begin to measure `total` rows; `say` is told how far it is."""
        self._say = say
        self._every = max(1, total // 10)
        self.start_s = time.monotonic()
        self.first_s = 0.0
        self.codes: dict[int, int] = {}
        self.took_s: list[float] = []
        self.memory: list[dict[str, float]] = []

    def handed_out(self, row: Row, attempt: int) -> None:
        """Nothing is read."""

    def ended(self, row: Row, result: RowResult) -> None:
        """Note the time; after every tenth of the rows, the memory, too."""
        self.codes[result.code] = self.codes.get(result.code, 0) + 1
        self.took_s.append(result.took_s)
        ended = len(self.took_s)
        if ended == 1:
            self.first_s = time.monotonic() - self.start_s
        if ended % self._every == 0:
            self.memory.append({"rows": ended, "driver_bytes": resident_bytes()})
            self._say(f"{ended} rows, {time.monotonic() - self.start_s:.0f} s, {resident_bytes() / (1 << 20):.0f} MiB")

    def document(self) -> dict[str, Any]:
        """The numbers measured. The first row carries the imports of its worker, and is taken out of the rest."""
        rows, all_s = len(self.took_s), time.monotonic() - self.start_s
        return {
            "rows": rows,
            "exit_codes": {str(code): count for code, count in sorted(self.codes.items())},
            "until_first_row_s": self.first_s,
            "all_s": all_s,
            "wall_s_a_row": (all_s - self.first_s) / (rows - 1),
            "inside_a_row_s": sorted(self.took_s)[rows // 2],
            "driver": self.memory,
        }


def resident_bytes() -> int:
    """Memory of this process that is in use."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and save."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1000)
    parser.add_argument("--executor", choices=("local", "ray"), default="ray")
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args(arguments)
    load_before = os.getloadavg()[0]
    with tempfile.TemporaryDirectory(prefix="parity-fleet-") as folder:
        found = measured(Path(folder), given.rows, given.executor)
    document = {
        "kind": "fleet",
        "command": f"python -m bench.fleet --rows {given.rows} --executor {given.executor}",
        "executor": given.executor,
        "case": "tiny_ti2v",
        "machine": {
            "cpu": cpu_model(),
            "cores": len(os.sched_getaffinity(0)),
            "python": platform.python_version(),
            "load_before": load_before,
        },
        **found,
    }
    write_json_atomic(given.out, document)


def measured(folder: Path, rows: int, kind: str) -> dict[str, Any]:
    """Rows that come back at once, then whole rows of the instant engine."""
    os.environ["XDG_CACHE_HOME"] = str(folder / "cache")
    store = Store(str(folder / "store"))
    forge("tiny", 0, folder / "weights")
    path = folder / "matrix.toml"
    path.write_text(MATRIX + DEVICE.format(name="first") + NATIVE)
    first: list[MatrixPlan] = []
    grid = run_matrix(path, folder / "first", this_machine, store, watcher=lambda plan: first.append(plan) or _quiet())
    reference = grid.rows[0].reference
    assert reference is not None and grid.code == 0, "the first row makes the official run that all others reuse"
    run = folder / "run"
    run.mkdir()
    for name, entry in reference.files.items():
        store.get(entry, run / name)
    engine = INSTANT.format(file=Path(__file__).with_name("instant.py").resolve(), run=run)
    path.write_text(MATRIX + "".join(DEVICE.format(name=f"d{number:04}") for number in range(rows)) + engine)
    plan = plan_matrix(path, store)

    def executor() -> Submits:
        return RayExecutor() if kind == "ray" else this_machine()

    alone = Measures(rows, print)
    made = executor()
    with held_ledger(folder / "alone", "alone", replace=False) as ledger:
        limits_s = {row.key: 600.0 for row in plan.rows}
        alone.start_s = time.monotonic()
        MatrixDrive(
            rows=plan.rows, limits_s=limits_s, ledger=ledger, store=store, executor=made, watcher=alone, program=NOTHING
        ).run()
    found = {"alone": alone.document()}
    made.shutdown()  # type: ignore[attr-defined]
    whole = Measures(rows, print)
    grid = run_matrix(path, folder / "whole", executor, store, watcher=lambda _: whole)
    assert grid.code == 0, grid.rows[0].cells[0].why or grid.rows[0].reason
    return {
        **found,
        "whole": whole.document(),
        "all_official_runs_reused": all(row.reference is not None and row.reference.reused for row in grid.rows),
        "ledger_bytes": (folder / "whole" / "ledger.jsonl").stat().st_size,
        "order_bytes": len(repr(plan.rows[0])),
        "store": store_size(Path(store.absolute_url)),
    }


def _quiet() -> Any:
    from parity.matrix.matrix import SaysNothing

    return SaysNothing()


def store_size(root: Path) -> dict[str, int]:
    """Files and bytes of a store that is a folder."""
    paths = [path for path in root.rglob("*") if path.is_file()]
    return {"files": len(paths), "bytes": sum(path.stat().st_size for path in paths)}


def cpu_model() -> str:
    """The processor's name."""
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


if __name__ == "__main__":
    main()
