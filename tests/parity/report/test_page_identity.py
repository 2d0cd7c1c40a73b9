"""An answer of `parity identify` on the page: only this run's, whole, and as text."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from parity.cli.app import app
from parity.report.page_html import join
from parity.report.page_identity import MOST_ROWS, identity_section, read_identified
from parity.runs.folder import RUN_FILE, read_run
from runners.errors import RunError
from runners.files import sha256_of

LeaveRun = Callable[..., Path]


@pytest.fixture
def run(leave_run: LeaveRun) -> Path:
    return leave_run("candidate", runner="native", first="denoise/000/guided/video")


def answer(run: Path, path: Path, **changes: Any) -> Path:
    document = {
        "schema_version": 1,
        "run_sha256": sha256_of(run / RUN_FILE),
        "confidence": "likely",
        "lines": ["as 1.0.0, but <b>something</b>", "confidence: likely; for a reason"],
        "unexplained": [{"tap": "connector/pos/video", "error": 0.0031, "entering": 0.0}],
        "told_beside": "fields that a page does not show are let be",
    }
    path.write_text(json.dumps({**document, **changes}))
    return path


def test_the_answer_and_what_it_leaves_unexplained_are_shown_as_text(run: Path, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    saved = answer(run, tmp_path / "answer.json")
    result = CliRunner().invoke(
        app, ["report", str(run), "--against", str(run), "--out", str(page), "--identified", str(saved)]
    )
    assert result.exit_code == 0, result.output
    text = page.read_text()
    assert "As 1.0.0, but &lt;b&gt;something&lt;/b&gt;" in text and "Confidence: likely; for a reason" in text
    assert "connector/pos/video" in text and "0.0031" in text


def test_many_places_are_cut_and_counted_and_none_is_said(run: Path, tmp_path: Path) -> None:
    place = {"tap": "init/video", "error": 1.0, "entering": 0.5}
    many = read_identified(answer(run, tmp_path / "many.json", unexplained=[place] * (MOST_ROWS + 3)), read_run(run))
    drawn = join(identity_section(many))
    assert "and 3 more places" in drawn and drawn.count("init/video") == MOST_ROWS
    none = answer(run, tmp_path / "none.json", unexplained=[], confidence="certain")
    assert "Nothing stays unexplained" in join(identity_section(read_identified(none, read_run(run))))
    assert "Not asked" in join(identity_section(None))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"run_sha256": "ab" * 32}, "about another run"),
        ({"schema_version": 2}, "schema version 2"),
        ({"lines": "as 1.0.0"}, "does not have its form"),
        ({"unexplained": [{"tap": "init/video"}]}, "does not have its form"),
        ({"lines": []}, "does not have its form"),
    ],
)
def test_an_answer_of_another_run_or_form_is_refused(
    changes: dict[str, Any], words: str, run: Path, tmp_path: Path
) -> None:
    with pytest.raises(RunError, match=words):
        read_identified(answer(run, tmp_path / "answer.json", **changes), read_run(run))
    with pytest.raises(RunError, match=r"no file that can be read .*answers come from `parity identify"):
        read_identified(tmp_path / "absent.json", read_run(run))
