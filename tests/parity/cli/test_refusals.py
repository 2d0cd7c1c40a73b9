"""The verbs' own refusals; what they run is tested beside the library."""

from pathlib import Path
from typing import Any

import pytest
from typer import Exit

import parity.isolate.isolation as isolate_library
from parity.cli.calibrate import calibrate
from parity.cli.isolate import isolate
from parity.cli.mutate import mutate
from runners.errors import ConfigError
from runners.forge.weights import ForgedWeights


def test_an_unknown_defect_is_named_and_nothing_is_run(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(Exit) as exited:
        mutate(weights=Path("none"), defect=["no_such_defect"])
    assert exited.value.exit_code == 2
    assert "no_such_defect" in capsys.readouterr().err


def test_only_limits_and_only_speed_exclude_each_other(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(Exit) as exited:
        calibrate(weights=None, perf_only=True, limits_only=True)
    assert exited.value.exit_code == 2
    assert "exclude" in capsys.readouterr().err


def test_isolate_takes_made_weights_and_the_steps_to_measure(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    given: list[Any] = []

    def measure(weights: Any, case: Any, options: Any, **choices: Any) -> Any:
        given.append((weights, case.id, str(options.device), choices["steps"], choices["blocks"]))
        raise ConfigError("enough seen")

    monkeypatch.setattr(isolate_library, "isolate", measure)
    with pytest.raises(Exit):
        isolate(["tiny_ti2v"], weights="forge:tiny:3", steps="0,2", quiet=True)
    ((weights, *rest),) = given
    assert isinstance(weights, ForgedWeights) and (weights.preset, weights.seed) == ("tiny", 3)
    assert rest == ["tiny_ti2v", "cpu", [0, 2], None]
    assert "enough seen" in capsys.readouterr().err
    with pytest.raises(Exit):
        isolate(["tiny_ti2v"], weights="forge:tiny", quiet=True)
    assert "forge:PRESET:SEED" in capsys.readouterr().err
