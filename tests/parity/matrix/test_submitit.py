"""An executor of somebody else, handed in: submitit's, whose local one stands for Slurm."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from parity.fleet.ledger import held_ledger
from parity.fleet.row import Row
from parity.matrix.drive import MatrixDrive

pytestmark = pytest.mark.sweep


def test_submitits_executor_does_rows(
    rows: Callable[..., list[Row]], drive: Callable[..., MatrixDrive], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    submitit = pytest.importorskip("submitit")
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[3]), prepend=":")
    executor = submitit.AutoExecutor(folder=tmp_path / "jobs", cluster="local")
    executor.update_parameters(timeout_min=2)
    made = rows(1) + rows(2, {"code": "1"})[1:]
    with held_ledger(tmp_path / "out", "m", replace=False) as ledger:
        matrix: Any = drive(made, ledger, executor)
        matrix.run()
        assert {result.case: result.code for result in ledger.results()} == {"case0": 0, "case1": 1}
