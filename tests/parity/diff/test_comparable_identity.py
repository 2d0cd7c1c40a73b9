"""Two runs are two runs, of one model: copies under any label are told, and honest runs with equal bits are not."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from parity.diff.comparable import identity_findings, require_same_weights, side_of
from parity.diff.runs import compare_runs
from parity.explain.diagnosis import diagnose
from parity.judge.gate import gate
from parity.runs import golden
from parity.runs.folder import read_run
from runners.errors import RunError
from runners.files import sha256_of

LeaveRun = Callable[..., Path]


def relabelled(run: Path, **changes: Any) -> Path:
    """A run whose run.json says something else; None takes a key away, as older runs lack it."""
    document = {**json.loads((run / "run.json").read_text()), **changes}
    (run / "run.json").write_text(json.dumps({key: value for key, value in document.items() if value is not None}))
    return run


def copy(run: Path, name: str, **changes: Any) -> Path:
    return relabelled(Path(shutil.copytree(run, run.parent / name)), **changes)


def codes(reference: Path, candidate: Path) -> list[tuple[str, str]]:
    return [(one.code, one.where) for one in identity_findings(read_run(reference), read_run(candidate))]


def test_honest_runs_with_equal_bits_are_two_runs(leave_run: LeaveRun) -> None:
    official, native, again = leave_run("official"), leave_run("native", runner="native"), leave_run("again")
    assert codes(official, native) == codes(official, again) == []
    assert compare_runs(read_run(official), read_run(native)).findings == ()
    ids = {read_run(run).manifest.run_id for run in (official, native, again)}
    assert len(ids) == 3 and all(len(one) == 32 for one in ids)
    for run in (official, native):  # as runs were before they had ids
        relabelled(run, run_id=None)
    assert codes(official, native) == codes(official, again) == []


def test_the_references_own_run_its_copy_and_a_relabelled_copy_are_the_same_run(leave_run: LeaveRun) -> None:
    official = leave_run("official")
    same = [("same_run", "run")]
    assert codes(official, official) == same
    assert codes(official, copy(official, "copied")) == same
    native = {"runner": "native", "tier": "fast", "created_utc": "2026-12-24T00:00:00+00:00"}
    assert codes(official, copy(official, "named", **native)) == same
    assert codes(official, copy(official, "without", **native, run_id=None)) == same
    assert codes(official, copy(official, "another", **native, run_id="ab" * 16)) == same
    old = relabelled(leave_run("old"), run_id=None)
    assert codes(old, copy(old, "older", **native)) == same


def test_round_times_that_somebody_wrote_tell_nothing(leave_run: LeaveRun) -> None:
    runs = [relabelled(leave_run(name, runner=name), end_to_end_s=4.0) for name in ("official", "native")]
    assert codes(*runs) == []


# As a clock gave them to a golden, and as events of a GPU did
TIMES = {"end_to_end_s": 6.519568670000808, "stage_s": {"load": 1.0084857089996149, "short": 1.2345678e-05}}
STEPS = [0.42237365800065163, 0.39714288300092745]
EVENTS = [2.32313134765625, 2.142684814453125]


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"end_to_end_s": 6.52}, True),
        ({"end_to_end_s": 7.1234567891, "stage_s": {}}, True),
        ({"end_to_end_s": 7.1234567891, "step_s": []}, True),
        ({"end_to_end_s": 7.1234567891, "stage_s": {}, "step_s": [0.5, STEPS[1]]}, True),
        ({"stage_s": {"load": 2.0084857089996149}, "step_s": [0.5, 0.6]}, True),
        (
            {"end_to_end_s": 7.1234567891, "stage_s": {"load": 1.1, "short": 1.2345678e-05}, "step_s": STEPS[::-1]},
            False,
        ),
        ({"end_to_end_s": 7.1234567891, "stage_s": {"other": 1.0084857089996149}, "step_s": [0.5]}, False),
    ],
    ids=str,
)
def test_one_time_that_two_runs_share_to_the_last_digit_tells_a_copy(
    leave_run: LeaveRun, changed: dict[str, Any], told: bool
) -> None:
    official = relabelled(leave_run("official"), **TIMES, step_s=STEPS)
    copied = copy(official, "copied", run_id="ab" * 16, runner="native", **changed)
    assert codes(official, copied) == ([("same_run", "run")] if told else [])


@pytest.mark.parametrize(("steps", "told"), [([EVENTS[0], 2.1], False), (EVENTS, True)], ids=str)
def test_of_coarse_times_of_a_gpu_two_must_be_equal(leave_run: LeaveRun, steps: list[float], told: bool) -> None:
    official = relabelled(leave_run("official"), step_s=EVENTS)
    other = relabelled(leave_run("other", runner="native"), step_s=steps)
    assert codes(official, other) == ([("same_run", "run")] if told else [])


def test_hard_links_and_links_of_folders_are_the_same_run(leave_run: LeaveRun, tmp_path: Path) -> None:
    official = leave_run("official")
    linked = tmp_path / "linked"
    linked.mkdir()
    for file in official.iterdir():
        os.link(file, linked / file.name)
    assert codes(official, linked) == [("same_run", "run")]
    (linked / "run.json").unlink()
    shutil.copy(official / "run.json", linked)
    relabelled(linked, runner="native", run_id="cd" * 16, end_to_end_s=9.5)
    assert codes(official, linked) == [("same_run", "run")]
    (tmp_path / "folder").symlink_to(official)
    assert codes(official, tmp_path / "folder") == [("same_run", "run")]


@pytest.mark.parametrize("reduced", [False, True])
def test_a_golden_is_the_run_it_was_made_of_and_no_other(checkout: Path, leave_run: LeaveRun, reduced: bool) -> None:
    official = leave_run("official", frames=(5, 64, 96))
    golden.bless(read_run(official), "first", reduced=reduced)
    kept = golden.golden_of("micro")
    assert [one.code for one in identity_findings(kept, read_run(official))] == ["same_run"]
    fresh = leave_run("fresh", frames=(5, 64, 96))
    assert identity_findings(kept, read_run(fresh)) == ()
    relabelled(official, run_id=None)
    assert [one.code for one in identity_findings(kept, read_run(official))] == ["same_run"]


@pytest.mark.parametrize(("key", "value"), [("dtype", "fp32"), ("model_version", "2.4.0"), ("num_blocks", 4)], ids=str)
def test_labels_that_contradict_the_reference_are_findings_where_bits_are_equal(
    leave_run: LeaveRun, key: str, value: Any
) -> None:
    official, native = leave_run("official", num_blocks=3), leave_run("native", runner="native", num_blocks=3)
    assert codes(official, native) == []
    relabelled(native, **{key: value})
    assert codes(official, native) == [("identity_mismatch", key)]
    found = compare_runs(read_run(official), read_run(native))
    assert ("identity_mismatch", key) in [(one.code, one.where) for one in found.findings]


@pytest.mark.parametrize(("key", "value"), [("dtype", ""), ("model_version", ""), ("num_blocks", None)], ids=str)
def test_a_known_runner_says_what_the_reference_says(leave_run: LeaveRun, key: str, value: Any) -> None:
    official = leave_run("official", num_blocks=3)
    for runner, wanted in (("native", [("identity_mismatch", key)]), ("engine", [])):
        other = relabelled(leave_run(runner, runner=runner, num_blocks=3), **{key: value})
        assert codes(official, other) == wanted
        assert codes(other, official) == [], "an older reference contradicts nothing"


def test_other_weights_are_not_parity_where_bits_are_equal(leave_run: LeaveRun) -> None:
    official, native = leave_run("official"), relabelled(leave_run("native", runner="native"), weights_hash="cd" * 32)
    for profile in (None, "limits"):  # without a registry, limits would refuse what nothing else decided
        verdict = gate(read_run(official), read_run(native), profile=profile)
        (found,) = [one for one in verdict.failures if one.code == "identity_mismatch"]
        assert (verdict.exit_code, found.where) == (1, "weights")
        assert f"{official} was run with weights {'ab' * 32}, {native} with {'cd' * 32}" in found.message
    explained = diagnose(read_run(official), read_run(native)).divergence
    assert [(one.code, one.where) for one in explained.findings] == [("identity_mismatch", "weights")]


@pytest.mark.parametrize("nameless", ["official", "native"])
def test_weights_that_a_run_does_not_name_are_refused(leave_run: LeaveRun, nameless: str) -> None:
    runs = {name: leave_run(name, runner=name) for name in ("official", "native")}
    relabelled(runs[nameless], weights_hash="")
    with pytest.raises(RunError, match=f"{nameless} does not say which weights it was run with; run it again"):
        compare_runs(read_run(runs["official"]), read_run(runs["native"]))


@pytest.mark.parametrize("reduced", [False, True])
def test_a_golden_is_not_replaced_by_a_run_of_other_weights(checkout: Path, leave_run: LeaveRun, reduced: bool) -> None:
    official = leave_run("official", frames=(5, 64, 96))
    golden.bless(read_run(official), "first", reduced=reduced)
    kept = golden.golden_of("micro")
    other = read_run(relabelled(leave_run("other", frames=(5, 64, 96)), weights_hash="cd" * 32))
    assert ("identity_mismatch", "weights") in [(one.code, one.where) for one in compare_runs(kept, other).findings]
    with pytest.raises(RunError, match="run both on the same --weights, LoRAs and quantization"):
        require_same_weights(kept, other)


def test_what_an_older_run_does_not_say_contradicts_nothing(leave_run: LeaveRun) -> None:
    official = leave_run("official", num_blocks=None, model_version="")
    assert codes(official, leave_run("native", runner="native", num_blocks=3)) == []


def test_a_side_says_what_it_is_and_where_and_when_it_ran(leave_run: LeaveRun) -> None:
    gpu = {"device": "cuda", "device_name": "NVIDIA H100", "source_hash": "ab" * 32}
    run = read_run(leave_run("gpu", runner="native", tier="fast", environment=gpu))
    side = side_of(run)
    assert (side.runner, side.tier, side.dtype, side.reference) == ("native", "fast", "bf16", "1.0.0")
    assert (side.device, side.processor, side.code) == ("cuda", "NVIDIA H100", "ab" * 32)
    assert (side.run_id, side.created_utc) == (run.manifest.run_id, run.manifest.created_utc)
    assert side.run_sha256 == sha256_of(run.folder / "run.json")
    cpu = side_of(read_run(leave_run("cpu")))
    assert (cpu.device, cpu.processor, cpu.code) == ("cpu", "Xeon", "")  # no code hash in this environment
