"""The verbs' own refusals; what they run is tested beside the library."""

import pytest
from typer import Exit

from parity.cli.calibrate import calibrate
from parity.cli.mutate import mutate


def test_an_unknown_defect_is_named_and_nothing_is_run(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(Exit) as exited:
        mutate(weights=None, defect=["no_such_defect"])  # type: ignore[arg-type]
    assert exited.value.exit_code == 2
    assert "no_such_defect" in capsys.readouterr().err


def test_only_limits_and_only_speed_exclude_each_other(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(Exit) as exited:
        calibrate(weights=None, perf_only=True, limits_only=True)  # type: ignore[arg-type]
    assert exited.value.exit_code == 2
    assert "exclude" in capsys.readouterr().err
