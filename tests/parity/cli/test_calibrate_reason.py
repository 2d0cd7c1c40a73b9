"""`parity calibrate --from-samples`: a limit is loosened with a reason alone, which is asked for at a terminal."""

import io
import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
import typer
from typer.testing import CliRunner

from parity.cli import verb
from parity.cli.app import app
from parity.cli.calibrate import calibrate as calibrate_verb
from parity.judge.limit import METHOD
from parity.judge.registry import load_registry, save_registry
from parity.runs.places import shipped_root


class Terminal(io.StringIO):
    """A standard input that says it is a terminal."""

    def isatty(self) -> bool:
        return True


def calibrate(*arguments: str) -> tuple[int, str]:
    """The verb, with nobody at a terminal."""
    result = CliRunner().invoke(app, ["calibrate", "--from-samples", *arguments])
    return result.exit_code, " ".join(result.output.split())


def calibrate_here() -> int:
    """The verb on this process's own streams. Returns: its exit code."""
    with pytest.raises(typer.Exit) as ended:
        calibrate_verb(from_samples=True)
    return int(ended.value.exit_code)


@pytest.fixture
def tighter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A root whose method was stricter: working its limits out again loosens them."""
    (tmp_path / "golden").mkdir()
    path = tmp_path / "thresholds" / "consistency_threshold.json"
    registry = load_registry(shipped_root() / "thresholds" / "consistency_threshold.json")
    key = next(key for key in registry.cases if key.case == "tiny_ti2v" and not key.device)
    only = msgspec.structs.replace(registry, cases={key: registry.cases[key]}, defaults={})
    used = {limit.calibration for limit in only.cases[key].values()}
    kept = {name: one for name, one in registry.calibrations.items() if name in used}
    path.parent.mkdir()
    save_registry(path, msgspec.structs.replace(only, calibrations=kept))
    monkeypatch.setenv("PARITY_ROOT", str(tmp_path))
    return path


def halved(real: Any) -> Any:
    """`rederived`, beside a registry whose first limit was half of what its samples give."""

    def propose(old: Any, cases: Any) -> Any:
        found = real(old, cases)
        index = next(i for i, one in enumerate(found.changes) if one.new is not None and one.new.direction == "lower")
        change = found.changes[index]
        small = msgspec.structs.replace(change.new, value=change.new.value / 2)
        loosened = msgspec.structs.replace(change, old=small, kind="loosened")
        changes = (*found.changes[:index], loosened, *found.changes[index + 1 :])
        return msgspec.structs.replace(found, changes=changes)

    return propose


@pytest.fixture
def loosening(tighter: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    from parity.judge import proposal

    monkeypatch.setattr(proposal, "rederived", halved(proposal.rederived))
    return tighter


def test_without_a_terminal_nothing_is_loosened_without_a_reason(loosening: Path) -> None:
    before = loosening.read_bytes()
    code, said = calibrate()
    assert code == 2 and "say why with --reason" in said
    assert loosening.read_bytes() == before
    assert calibrate("--reason", "measured anew")[0] == 0
    assert b"loosened: measured anew" in loosening.read_bytes()


@pytest.mark.parametrize("typed", ["because of torch\n", "\n", ""])
def test_a_terminal_is_asked_and_silence_writes_nothing(
    loosening: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], typed: str
) -> None:
    before = loosening.read_bytes()
    monkeypatch.setattr(type(verb.err), "is_terminal", property(lambda _: True))
    monkeypatch.setattr("sys.stdin", Terminal(typed))
    code = calibrate_here()
    said = " ".join(capsys.readouterr().err.split())
    assert "1 limits would let more pass than before. Why?" in said
    if typed.strip():
        assert code == 0 and b"loosened: because of torch" in loosening.read_bytes()
    else:
        assert code == 2 and "say why with --reason" in said
        assert loosening.read_bytes() == before


def test_limits_of_lossy_forms_are_worked_out_again_as_well(tighter: Path) -> None:
    form = tighter.parent / "forms" / "h264-yuv420p-crf23_wav" / tighter.name
    form.parent.mkdir(parents=True)
    save_registry(form, load_registry(tighter))
    form.write_text(form.read_text().replace(json.dumps(METHOD), '"an older one"'))
    assert load_registry(form).method == "an older one"
    assert calibrate()[0] == 0
    assert load_registry(form).method == METHOD
