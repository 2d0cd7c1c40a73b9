"""Verbs take their two runs in one way, and every place that tells of a verdict that fails tells it in one line."""

import html
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from parity.cli.app import app
from parity.cli.isolate import reference_and_run
from parity.report.markdown import escaped
from parity.runs import golden
from parity.runs.folder import read_run

LeaveRun = Callable[..., Path]
FIRST = "denoise/001/cond/block/01/video/ff"
VERBS = {"diff": ("--json",), "gate": ("--json",), "explain": ("--json",), "report": ("--out", "page.html")}


def said(*arguments: Any) -> tuple[int, str]:
    found = CliRunner().invoke(app, [str(argument) for argument in arguments], env={"COLUMNS": "300"})
    return found.exit_code, found.output


@pytest.fixture
def sides(leave_run: LeaveRun, checkout: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    monkeypatch.chdir(checkout)
    return leave_run("official"), leave_run("native", runner="native", first=FIRST, error=0.25)


@pytest.mark.parametrize("verb", VERBS)
def test_both_forms_say_the_same_and_the_reference_comes_first(verb: str, sides: tuple[Path, Path]) -> None:
    reference, run = sides

    def answer(*named: Any) -> tuple[int, str, str]:
        code, text = said(verb, *named, *VERBS[verb])
        page = Path("page.html")
        return code, text, re.sub(r"\s+", " ", page.read_text()) if page.exists() else ""

    first = answer(run, "--against", reference)
    assert first[0] == (1 if verb == "gate" else 0) and answer(reference, run) == first
    assert answer(run, reference) != first  # the other way round it is another comparison
    for wrong in ((reference, run, "--against", reference), (reference, run, run)):
        code, text, _ = answer(*wrong)
        assert code == 2 and "as RUN --against REF or as REF RUN" in text


@pytest.mark.parametrize("verb", VERBS)
def test_one_run_alone_is_held_to_its_golden(verb: str, sides: tuple[Path, Path], leave_run: LeaveRun) -> None:
    golden.bless(read_run(leave_run("blessed")), "first")
    code, text = said(verb, sides[1], *VERBS[verb])
    assert code == (1 if verb == "gate" else 0), text
    assert (code, text) == said(verb, "golden", sides[1], *VERBS[verb])


def test_identify_takes_a_reference_in_the_same_way(sides: tuple[Path, Path]) -> None:
    for named in ((*sides, sides[0]), (*sides, "--against", sides[0])):
        code, text = said("identify", *named, "--weights", "forge:tiny:0")
        assert code == 2 and "as RUN --against REF or as REF RUN" in text


def test_isolate_tells_a_reference_and_a_run_under_test_apart_in_either_form(
    sides: tuple[Path, Path], leave_run: LeaveRun
) -> None:
    reference, run = (str(side) for side in sides)
    pair = reference, Path(run)
    assert reference_and_run([reference, run], None) == pair
    assert reference_and_run([run], reference) == pair  # as every verb has it
    assert reference_and_run([reference], run) == pair  # as it was
    assert reference_and_run([run], "golden") == ("golden", Path(run)) == reference_and_run(["golden", run], None)
    assert reference_and_run(["a_case"], run) == ("a_case", Path(run)) == reference_and_run([run], "a_case")
    assert reference_and_run([reference], None) == (reference, None)
    engine = str(leave_run("engine", runner="engine"))
    assert reference_and_run([engine], run) == (engine, Path(run))  # of two candidates, as it was
    for named in ((*sides, sides[0]), (*sides, "--against", sides[0])):
        code, text = said("isolate", *named, "--weights", "forge:tiny:0")
        assert code == 2 and "as RUN --against REF or as REF RUN" in text


def test_saved_numbers_are_of_two_runs_already(sides: tuple[Path, Path]) -> None:
    assert said("diff", *sides, "--out", "numbers.json")[0] == 0
    code, text = said("gate", "numbers.json", "--numbers")
    assert code == 1 and text.splitlines()[1].startswith("saved numbers hold no taps")
    code, text = said("gate", sides[0], "numbers.json", "--numbers")
    assert code == 2 and "--numbers takes one file" in text


def test_everything_that_tells_of_a_failure_carries_the_first_line_of_the_explanation(
    sides: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    line = said("explain", *sides)[1].splitlines()[0]
    assert re.match(
        rf"\d+ of 263 taps equal in every bit; the first to differ is `{FIRST}` although its 4 inputs are equal: "
        "look at only from step 1 on",
        line,
    )
    summary = Path("summary.md")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(summary))
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    text = said("gate", *sides, "--junit", "gate.xml")[1].splitlines()
    assert f"::error title=parity micro::VERDICT: NOT AT PARITY: {line}" in text
    assert text[text.index(next(one for one in text if one.startswith("VERDICT"))) + 1] == line
    assert escaped(line) in summary.read_text()
    suite = html.unescape(Path("gate.xml").read_text())
    assert suite.count(line) == suite.count("<failure ") > 0
    monkeypatch.delenv("GITHUB_ACTIONS")
    assert json.loads(said("gate", *sides, "--json")[1])["explanation"] == line
    said("report", *sides, "--out", "page.html")
    page = html.unescape(re.sub("</?code>", "`", Path("page.html").read_text()))
    assert page.count(line) == 2  # under the verdict, and where the first divergence is explained


def test_a_verdict_that_limits_are_missing_for_is_explained_all_the_same(
    sides: tuple[Path, Path], leave_run: LeaveRun
) -> None:
    engine = leave_run("engine", runner="engine", first=FIRST, error=0.25)
    line = said("explain", sides[0], engine)[1].splitlines()[0]
    code, text = said("gate", sides[0], engine, "--junit", "gate.xml")
    assert code == 2 and line in text.splitlines()
    assert line in html.unescape(Path("gate.xml").read_text())
    document = CliRunner().invoke(app, ["gate", str(sides[0]), str(engine), "--json"]).stdout
    assert json.loads(document)["explanation"] == line
