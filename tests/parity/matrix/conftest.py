"""Rows without anything to run, and a driver of them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from parity.fleet.ledger import Ledger
from parity.fleet.matrix_file import DeviceEntry
from parity.fleet.row import EngineOfRow, Row, RowResult
from parity.matrix.drive import MatrixDrive
from parity.runs.store import Store

INSTANT = "tests.parity.matrix.made_rows:instant"


class Heard:
    """A watcher that remembers."""

    def __init__(self) -> None:
        self.out: list[tuple[str, int]] = []
        self.results: list[RowResult] = []

    def handed_out(self, row: Row, attempt: int) -> None:
        self.out.append((row.case_id, attempt))

    def ended(self, row: Row, result: RowResult) -> None:
        self.results.append(result)


@pytest.fixture
def rows() -> Callable[..., list[Row]]:
    """Make rows of as many cases as wanted, whose engine has options of its own."""

    def make(count: int, options: dict[str, str] | None = None, **changes: Any) -> list[Row]:
        engine = EngineOfRow(label="instant", runner="native", options=options or {})
        made: dict[str, Any] = {
            "pictures": {},
            "weights": "forge:tiny:0",
            "device": DeviceEntry(name="cpu"),
            "official": None,
            "engines": (engine,),
            "repeats": 1,
            "isolate": False,
            "perf": False,
            "taps": "*",
            "reports": "all",
            "code": "c0de",
        }
        return [Row(case={"id": f"case{number}"}, **{**made, **changes}) for number in range(count)]

    return make


@pytest.fixture
def drive(tmp_path: Path) -> Callable[..., MatrixDrive]:
    """A driver of rows with a ledger that is open already."""

    def make(rows: list[Row], ledger: Ledger, executor: Any, watcher: Any = None, **changes: Any) -> MatrixDrive:
        return MatrixDrive(
            rows=rows,
            limits_s={row.key: 20.0 for row in rows},
            ledger=ledger,
            store=Store(str(tmp_path / "store")),
            executor=executor,
            watcher=watcher or Heard(),
            program=INSTANT,
            **changes,
        )

    return make


@pytest.fixture
def heard() -> Heard:
    return Heard()
