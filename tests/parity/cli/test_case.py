"""`parity case` as scripts see it."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from parity.cli.app import app
from runners.case import load_case

GOLDEN = Path(__file__).parent.parent.parent.parent / "golden"


def test_a_case_goes_there_and_back_through_both_verbs(tmp_path: Path) -> None:
    printed = CliRunner().invoke(app, ["case", "--to-request", "tiny_ti2v_no_v2a"])
    assert printed.exit_code == 0, printed.output
    request = json.loads(printed.stdout)
    assert request["extra"]["ltx2_skip_v2a_cross_attn_for_video_gt"] is True
    assert (request["seed"], request["num_inference_steps"], request["reference"]) == (10, 4, "1.0.0")
    folder = GOLDEN / "tiny_ti2v_no_v2a"
    (tmp_path / "recorded.json").write_text(printed.stdout)
    printed = CliRunner().invoke(app, ["case", "--from-request", str(tmp_path / "recorded.json")])
    assert printed.exit_code == 0, printed.output
    (tmp_path / "case.toml").write_bytes(printed.stdout_bytes)
    (tmp_path / "astronaut.png").write_bytes((GOLDEN / "pictures" / "astronaut.png").read_bytes())
    back, case = load_case(tmp_path / "case.toml"), load_case(folder / "case.toml")
    assert (back.id, back.reference, back.request) == (case.id, case.reference, case.request)
    assert (back.guidance, back.switches) == (case.guidance, case.switches)


@pytest.mark.parametrize(
    "arguments",
    [[], ["--to-request", "tiny_ti2v", "--from-request", "x.json"]],
    ids=["neither", "both"],
)
def test_one_of_the_two_ways_is_wanted(arguments: list[str]) -> None:
    result = CliRunner().invoke(app, ["case", *arguments])
    assert result.exit_code == 2 and "either --to-request CASE or --from-request FILE" in result.stderr


def test_what_cannot_be_mapped_exits_2_with_one_sentence_and_prints_nothing(tmp_path: Path) -> None:
    (tmp_path / "r.json").write_text('{"prompt": "p"}')
    result = CliRunner().invoke(app, ["case", "--from-request", str(tmp_path / "r.json")])
    assert (result.exit_code, result.stdout) == (2, "")
    assert "does not have its form (Object missing required field" in result.stderr
    result = CliRunner().invoke(app, ["case", "--to-request", "no_such_case"])
    assert (result.exit_code, result.stdout) == (2, "")
