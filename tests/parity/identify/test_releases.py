"""The named changes between releases, and telling which release a run follows from goldens alone."""

import re
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from parity.identify.releases import WORDS, changes_between, follows_another, named
from parity.report.words import release_followed
from parity.runs.folder import Run, read_run
from runners.errors import RunError
from runners.releases import ReleaseBehaviours

LeaveRun = Callable[..., Path]


def test_every_behaviour_has_words() -> None:
    assert WORDS.keys() == {field.name for field in fields(ReleaseBehaviours)}


def test_changes_are_those_of_the_presets_and_may_be_undone() -> None:
    first = [change.name for change in changes_between("1.0.0", "1.1.2")]
    assert first == [
        *("vocoder_fp32", "keyframe_spans_one_frame", "negative_disables_skipped_modality", "guided_passes_repeated")
    ]
    later = changes_between("1.1.2", "1.2.0")
    assert len(later) == 12 and {change.since for change in later} == {"1.2.0"} and all(change.on for change in later)
    back = changes_between("1.2.0", "1.0.0")
    assert len(back) == 16 and not any(change.on for change in back)
    assert changes_between("1.2.0", "1.2.0") == ()
    with pytest.raises(RunError, match="'custom' is no release whose changes have names"):
        changes_between("1.0.0", "custom")


def test_two_official_runs_show_their_names_and_the_whole_difference(leave_run: LeaveRun) -> None:
    old = read_run(leave_run("old"))
    new = read_run(leave_run("new", reference="1.1.2", first="decode/waveform", error=0.5))
    found = named(old, new)
    assert (found.old, found.new, len(found.changes)) == ("1.0.0", "1.1.2", 4)
    assert found.total.first_tap == "decode/waveform" and not found.explained
    document = found.document()
    assert document["changes"][0]["effect"] is None and document["explained"] is None


def test_a_candidate_of_another_release_is_a_reference_mismatch(leave_run: LeaveRun) -> None:
    engine = leave_run("engine", runner="diffusers", reference="1.2.0")
    with pytest.raises(RunError, match=r"^Reference mismatch: .*follows release 1\.0\.0.*no official run"):
        named(read_run(leave_run("old")), read_run(engine))


def changed(amount: int) -> Callable[[dict[str, Any]], None]:
    def change(made: dict[str, Any]) -> None:
        made["video_frames"] = made["video_frames"] + amount
        made["audio_waveform"] = made["audio_waveform"] * (1 + amount / 100)

    return change


@pytest.mark.parametrize(
    ("amount", "words"),
    [
        (40, r"has every bit of official 1\.0\.0 \(.*first\), not of 1\.2\.0: it follows that release"),
        (38, r"is \d+ times nearer to official 1\.0\.0 .* in frames and sound: it seems to follow that release"),
        (25, None),  # nearer to 1.0.0, but not by far
        (1, None),
    ],
)
def test_the_release_that_a_candidate_follows_is_told_from_goldens(
    leave_run: LeaveRun, amount: int, words: str | None
) -> None:
    goldens: list[Run] = [
        read_run(leave_run("first", change=changed(40))),
        read_run(leave_run("second", change=changed(50), reference="1.1.2")),
        read_run(leave_run("third", reference="1.2.0")),
    ]
    candidate = read_run(leave_run("candidate", change=changed(amount), runner="native", reference="1.2.0"))
    found = follows_another(candidate, goldens[2], goldens)
    if words is None:
        assert found is None
    else:
        assert found is not None and found.instead_of == "1.2.0" and found.folder == goldens[0].folder
        said = release_followed(found)
        assert re.search(words, said) and "\n" not in said
