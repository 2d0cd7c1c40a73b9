"""The verbs' own refusals; what they run is tested beside the library."""

from typing import Any

import pytest
from typer import Exit

import parity.isolate.isolation as isolate_library
from parity.cli.calibrate import calibrate
from parity.cli.isolate import isolate
from parity.cli.mutate import mutate, share_of
from runners.errors import CaseError, ConfigError
from runners.forge.weights import ForgedWeights


def test_an_unknown_defect_is_named_and_nothing_is_run(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(Exit) as exited:
        mutate(weights="none", defect=["no_such_defect"])
    assert exited.value.exit_code == 2
    assert "no_such_defect" in capsys.readouterr().err


def test_only_limits_and_only_speed_exclude_each_other(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(Exit) as exited:
        calibrate(weights=None, perf_only=True, limits_only=True)
    assert exited.value.exit_code == 2
    assert "exclude" in capsys.readouterr().err


@pytest.mark.parametrize("share", ["0/3", "4/3", "1", "1/3/5", "-1/3", "1/0"])
def test_mutate_wants_a_share_that_there_is(share: str) -> None:
    with pytest.raises(CaseError, match="take K/N such as 2/3"):
        share_of(share)
    assert share_of("2/3") == (2, 3)


def test_mutate_puts_defects_into_native_alone(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(Exit) as ended:
        mutate(weights="forge:tiny:0", runner="official")
    assert ended.value.exit_code == 2
    assert "defects are put into native" in capsys.readouterr().err


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
