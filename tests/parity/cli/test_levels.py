"""A gate by limits on every level of evidence, from run folders and saved files, as a user calls it."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from typer.testing import CliRunner

from parity.cli.app import app
from parity.diff.comparable import flow_of
from parity.diff.isolated import bound_runs
from parity.runs.folder import read_run
from parity.taps.dataflow import Dataflow
from parity.taps.isolated_places import isolated_places
from parity.trace.file import read_trace
from runners.case import parse_case
from runners.clock import STAGES
from tests.parity.made_up_limits import save_limits, save_score

LeaveRun = Callable[..., Path]
Gate = Callable[..., tuple[int, dict[str, Any]]]


@pytest.fixture
def gate(tmp_path: Path, micro_case_text: str, monkeypatch: pytest.MonkeyPatch) -> Gate:
    """`parity gate --json` in a checkout with limits at 0.1 from agreement for the micro case."""
    root = tmp_path / "root"
    (root / "golden").mkdir(parents=True)
    (root / "docs" / "measurements").mkdir(parents=True)
    (root / "thresholds").mkdir()
    save_limits(root, Dataflow(parse_case(micro_case_text, tmp_path), 3))
    save_score(root)
    monkeypatch.setenv("PARITY_ROOT", str(root))

    def call(*arguments: object) -> tuple[int, dict[str, Any]]:
        found = CliRunner().invoke(app, ["gate", *map(str, arguments), "--json"])
        return found.exit_code, json.loads(found.stdout)

    return call


def saved_isolation(path: Path, official: Path, mine: Path, errors: dict[str, float] | None = None) -> Path:
    """A file that `parity isolate` would leave of a run beside another, with no error but those given by place."""
    reference, candidate = read_run(official), read_run(mine)
    record = candidate.manifest
    places = isolated_places(flow_of(reference, candidate, read_trace(official)), (0, 1))
    document = {
        **{key: getattr(record, key) for key in ("inputs", "runner", "tier", "dtype", "weights_hash", "environment")},
        "schema_version": 2,
        "case": record.case,
        "details": {},
        "stages": STAGES,
        "steps": [0, 1],
        "whole": True,
        "runs": bound_runs([reference], candidate),
        "rows": [{"where": place, "added": (errors or {}).get(place, 0.0)} for place in places],
    }
    path.write_text(json.dumps(msgspec.to_builtins(document)))
    return path


def test_outputs_and_drift_are_judged_and_the_lack_of_isolation_is_said(gate: Gate, leave_run: LeaveRun) -> None:
    official, mine = leave_run("official"), leave_run("mine", runner="native", tier="fast")
    code, document = gate(mine, "--against", official)
    assert (code, document["outcome"]) == (0, "parity")
    assert document["levels"]["outputs"] == document["levels"]["drift"] == "judged"
    assert "isolate" in document["levels"]["isolated"]
    assert "outputs and drift of taps catch 7 of 9 known defects" in document["notes"][0]


def test_a_tap_that_drifts_too_far_is_not_at_parity_though_all_outputs_are(gate: Gate, leave_run: LeaveRun) -> None:
    first = "denoise/001/cond/block/01/video/ff"
    far = leave_run("far", runner="native", tier="fast", first=first, error=0.5)
    code, document = gate(far, "--against", leave_run("official"))
    failed = [row["metric"] for row in document["rows"] if not row["passed"]]
    assert code == 1 and "drift.block.video.ff.first_half" in failed
    assert all(name.startswith("drift.") for name in failed)


def test_isolated_errors_are_judged_from_their_file(gate: Gate, leave_run: LeaveRun, tmp_path: Path) -> None:
    official, mine = leave_run("official"), leave_run("mine", runner="native", tier="fast")
    path = saved_isolation(tmp_path / "alone.json", official, mine)
    code, document = gate(mine, "--against", official, "--isolated", path)
    assert code == 0 and set(document["levels"].values()) == {"judged"}
    path = saved_isolation(tmp_path / "alone.json", official, mine, {"decode/mel": 0.2})
    code, document = gate(mine, "--against", official, "--isolated", path)
    assert code == 1 and [row["metric"] for row in document["rows"] if not row["passed"]] == ["isolated.decode.mel"]
    code, document = gate(official, "--against", mine, "--isolated", path)
    assert code == 2 and "another run" in document["failures"][0]["message"]


def test_adding_isolated_errors_never_makes_a_failure_undecided(
    gate: Gate, leave_run: LeaveRun, tmp_path: Path
) -> None:
    def loud(made: dict[str, Any]) -> None:
        made["audio_waveform"] = made["audio_waveform"] * 3

    official, good = leave_run("official"), leave_run("good", runner="native", tier="fast")
    bad = leave_run("bad", runner="native", tier="fast", change=loud)
    (tmp_path / "none.json").write_text("[")
    files = {
        1: saved_isolation(tmp_path / "failing.json", official, bad, {"decode/mel": 0.2}),
        2: saved_isolation(tmp_path / "of_another.json", official, good),
        3: saved_isolation(tmp_path / "damaged.json", official, bad, {"decode/mel": -1.0}),
        4: tmp_path / "none.json",
    }
    assert gate(bad, "--against", official)[0] == 1
    for path in files.values():
        assert gate(bad, "--against", official, "--isolated", path)[0] == 1, path
    code, document = gate(good, "--against", official, "--isolated", files[3])
    assert code == 2 and [failure["code"] for failure in document["failures"]] == ["not_isolated"]
    assert document["levels"]["isolated"] == "what was given is not of these runs, or not whole"


@pytest.mark.parametrize("row", [{"where": "nowhere", "added": 0.0}, {"where": "decode/mel", "added": -1}])
def test_one_row_is_no_isolation(gate: Gate, leave_run: LeaveRun, tmp_path: Path, row: dict[str, Any]) -> None:
    official, mine = leave_run("official"), leave_run("mine", runner="native", tier="fast")
    document = json.loads(saved_isolation(tmp_path / "alone.json", official, mine).read_text())
    (tmp_path / "alone.json").write_text(json.dumps({**document, "rows": [row]}))
    code, verdict = gate(mine, "--against", official, "--isolated", tmp_path / "alone.json")
    assert code == 2 and {failure["code"] for failure in verdict["failures"]} >= {"not_isolated"}


def test_saved_numbers_hold_the_levels_and_are_judged_alike(gate: Gate, leave_run: LeaveRun, tmp_path: Path) -> None:
    official, mine = leave_run("official"), leave_run("mine", runner="native", tier="fast")
    alone = saved_isolation(tmp_path / "alone.json", official, mine, {"decode/mel": 0.2})
    numbers = tmp_path / "numbers.json"
    arguments = ["diff", str(official), str(mine), "--isolated", str(alone), "--out", str(numbers)]
    assert CliRunner().invoke(app, arguments).exit_code == 0
    code, document = gate(numbers, "--numbers")
    assert code == 1 and set(document["levels"].values()) == {"judged"}
    assert gate(numbers, "--numbers", "--isolated", alone)[0] == 2


def test_a_runner_that_offers_taps_and_left_none_cannot_be_judged(gate: Gate, leave_run: LeaveRun) -> None:
    official = leave_run("official")
    code, document = gate(leave_run("bare", runner="native", tier="fast", blocks=None), "--against", official)
    assert code == 2 and [failure["code"] for failure in document["failures"]] == ["missing_trace"]


def test_an_engine_without_internals_is_judged_by_its_outputs_and_the_verdict_says_what_that_is_worth(
    gate: Gate, leave_run: LeaveRun
) -> None:
    code, document = gate(leave_run("engine", runner="engine", blocks=None), "--against", leave_run("official"))
    assert code == 0 and "offers no internals" in document["levels"]["drift"]
    assert "outputs alone catch 4 of 9 known defects (micro, 2026-01-02)" in document["notes"][0]


def test_text_that_one_side_holds_with_padding_is_left_out_said_and_not_judged(
    gate: Gate, leave_run: LeaveRun, tmp_path: Path
) -> None:
    old = leave_run("old", padded_text=True)
    text = {"taps": ["text/pos/hidden", "text/neg/hidden"], "padded": ["reference"]}
    words = "text/pos/hidden and text/neg/hidden left out: the reference was recorded when they still held padding"
    for tier in ("fast", "exact"):  # by limits and by bits
        mine = leave_run(tier, runner="native", tier=tier, first="text/pos/hidden", error=0.0)
        code, document = gate(mine, "--against", old)
        assert document["left_out"] == text and any(words in note for note in document["notes"])
        assert not any(row["metric"] == "drift.text" for row in document["rows"]) and document["failures"] == []
        assert code == (0 if tier == "fast" else 1), "what is computed from it is compared as ever"
    said = CliRunner().invoke(app, ["gate", str(mine), "--against", str(old)]).stdout
    assert words in " ".join(said.split())
    diffed = CliRunner().invoke(app, ["diff", str(old), str(mine), "--json"])
    assert json.loads(diffed.stdout)["left_out"] == text
    shown = CliRunner().invoke(app, ["diff", str(old), str(mine), "--out", str(tmp_path / "numbers.json")]).stdout
    assert words in " ".join(shown.split()) and "drift.connector.video" in shown and "drift.text" not in shown
    assert gate(tmp_path / "numbers.json", "--numbers")[1]["left_out"] == text
    explained = CliRunner().invoke(app, ["explain", str(mine), "--against", str(old)]).stdout
    assert words in " ".join(explained.split()) and "first departs at video text connector, prompt" in explained
    far = leave_run("far", runner="native", tier="fast", first="text/pos/hidden", error=0.5)
    code, document = gate(far, "--against", old)
    failed = [row["metric"] for row in document["rows"] if not row["passed"]]
    assert code == 1 and "drift.connector.video" in failed and "drift.text" not in failed


def test_explain_holds_taps_against_the_registrys_floors_and_says_so(gate: Gate, leave_run: LeaveRun) -> None:
    official = leave_run("official")
    far = leave_run("far", runner="native", tier="fast", first="init/video", error=0.5)
    found = CliRunner().invoke(app, ["explain", str(far), "--against", str(official), "--json"])
    document = json.loads(found.stdout)
    assert document["floors_by_rule"] == 0 and document["floors_by_registry"] == len(document["taps"])
    assert document["roots"][0]["tap"] == "init/video" and document["roots"][0]["harmless"] == pytest.approx(0.01)
    assert any("the registry's" in line for line in document["lines"])
