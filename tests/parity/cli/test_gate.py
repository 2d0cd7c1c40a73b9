"""A candidate's word on itself does not decide by what it is judged, and the first line says by what it was."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from parity.cli.app import app
from parity.diff.metric import METRICS, Metric
from parity.report import junit
from parity.runs import golden
from parity.runs.folder import read_run
from parity.taps.dataflow import Dataflow
from parity.trace.file import read_trace, write_trace
from runners.case import parse_case
from runners.errors import OutputError
from runners.files import sha256_of
from tests.parity.made_up_limits import save_limits

LeaveRun = Callable[..., Path]
FIRST = "denoise/001/cond/block/01/video/ff"
ELSEWHERE = {"torch": "2.14.0"}
UNJUDGED = (".bit_equal.", ".value_mismatches", ".bit_mismatches", ".ulp.", "taps.", "small_")


@pytest.fixture
def gate(checkout: Path, leave_run: LeaveRun, micro_case_text: str) -> Callable[..., tuple[int, str]]:
    """`parity gate` against an official run, in a checkout with limits that were measured under torch 2.13.0."""
    flow = Dataflow(parse_case(micro_case_text, checkout), 3)
    unjudged = {name: "not in this test" for name in METRICS if any(part in name for part in UNJUDGED)}
    save_limits(checkout, flow, floor=0.02, isolated=False, unjudged=unjudged, at=in_its_unit)

    def call(run: Path, against: Path, *more: str) -> tuple[int, str]:
        found = CliRunner().invoke(app, ["gate", str(run), "--against", str(against), *more], env={"COLUMNS": "300"})
        return found.exit_code, found.stdout

    return call


def in_its_unit(metric: Metric, distance: float) -> float:
    if metric.direction == "lower":
        return distance
    return {"dB": -20 * torch.log10(torch.tensor(distance)).item(), "": 1 - distance}[metric.unit]


Gate = Callable[..., tuple[int, str]]


def test_taps_that_a_run_says_its_runner_does_not_offer_are_compared_and_owed_all_the_same(
    gate: Gate, leave_run: LeaveRun
) -> None:
    official, offered = leave_run("official"), {"taps_offered": ["decode/*"]}
    for runner, tier in (("native", "exact"), ("native", "fast"), ("engine", "exact")):
        wrong = leave_run(f"{runner}_{tier}", runner=runner, tier=tier, first=FIRST, error=0.5, details=offered)
        code, said = gate(wrong, official)
        assert code == 1 and said.startswith("VERDICT: NOT AT PARITY: "), (runner, tier)
        assert "263 taps" in said.splitlines()[0]
    code, said = gate(leave_run("bare", runner="native", tier="fast", blocks=None, details=offered), official)
    assert code == 2 and "missing_trace" in said
    few = leave_run("few", runner="native", tier="fast", pattern="decode/*", details=offered)
    code, said = gate(few, official)
    assert code == 2 and "missing_trace" in said


def test_an_engine_of_ones_own_may_offer_less_and_the_first_line_says_so(gate: Gate, leave_run: LeaveRun) -> None:
    official = leave_run("official")
    some = leave_run("some", runner="engine", pattern="decode/*", details={"taps_offered": ["decode/*"]})
    code, said = gate(some, official)
    assert code == 0 and said.splitlines()[0] == (
        "VERDICT: PARITY (judged by limits on outputs and drift of 3 of 263 taps, without isolated errors)"
    )
    code, said = gate(leave_run("none", runner="engine", blocks=None), official)
    assert code == 0 and said.splitlines()[0] == (
        "VERDICT: PARITY (judged by limits on outputs alone: runner 'engine' offers no internals)"
    )


@pytest.mark.parametrize("changes", [{"blocks": None}, {"pattern": "decode/*"}, {"pattern": "init/* text/*"}], ids=str)
def test_by_bits_a_trace_that_is_left_out_or_shrunk_cannot_be_judged(
    gate: Gate, leave_run: LeaveRun, changes: dict[str, Any]
) -> None:
    official = leave_run("official")
    code, said = gate(leave_run("native", runner="native", **changes), official)
    assert code == 2 and "FAIL missing_trace in drift" in said

    def louder(made: dict[str, Any]) -> None:
        made["audio_waveform"] = made["audio_waveform"] * 1.5

    assert gate(leave_run("wrong", runner="native", change=louder, **changes), official)[0] == 1


def test_two_runs_without_traces_are_judged_by_their_outputs_and_the_first_line_says_so(
    gate: Gate, leave_run: LeaveRun
) -> None:
    official, native = leave_run("official", blocks=None), leave_run("native", runner="native", blocks=None)
    code, said = gate(native, official)
    assert code == 0 and said.splitlines()[0] == (
        "VERDICT: PARITY (judged by equality of outputs alone: neither run has a trace; record both with --taps '*')"
    )
    code, said = gate(leave_run("traced", runner="native"), official)
    assert code == 0 and "equality of outputs alone: the reference has no trace" in said.splitlines()[0]


def test_a_run_is_not_judged_by_itself(gate: Gate, leave_run: LeaveRun) -> None:
    official = leave_run("official")
    code, said = gate(official, official)
    assert code == 2 and "FAIL same_run in run: both are run " in said
    golden.bless(read_run(official), "first")
    found = CliRunner().invoke(app, ["gate", str(official)])
    assert found.exit_code == 2 and "same_run" in found.stdout
    assert CliRunner().invoke(app, ["gate", str(leave_run("fresh"))]).exit_code == 0


def test_text_and_json_name_both_sides(gate: Gate, leave_run: LeaveRun, tmp_path: Path) -> None:
    where = {"source_hash": "ab" * 32}
    official, native = leave_run("official", environment=where), leave_run("native", runner="native", environment=where)
    records = {name: read_run(run).manifest for name, run in (("reference", official), ("candidate", native))}
    lines = gate(native, official)[1].splitlines()
    document = json.loads(gate(native, official, "--json", "--junit", str(tmp_path / "gate.xml"))[1])
    for name, record in records.items():
        (line,) = (one for one in lines if one.startswith(f"{name}: "))
        assert line == (
            f"{name}: {record.runner}, tier exact, bf16, release 1.0.0, code abababababab, ran {record.created_utc}, "
            f"on cpu Xeon, run {record.run_id}"
        )
        side = document["sides"][name]
        assert (side["runner"], side["run_id"], side["code"]) == (record.runner, record.run_id, "ab" * 32)
        assert record.run_id in (tmp_path / "gate.xml").read_text()
    assert document["judged_by"] == "equality of outputs and 263 taps"


def test_a_junit_file_that_cannot_be_written_hides_no_verdict(
    gate: Gate, leave_run: LeaveRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, _: bytes) -> None:
        raise OutputError(f"{path} could not be written: no space left.")

    monkeypatch.setattr(junit, "write_bytes_atomic", full)
    official, native = leave_run("official"), leave_run("native", runner="native")
    code, said = gate(native, official, "--junit", str(tmp_path / "gate.xml"))
    assert code == 2 and said.splitlines()[0].startswith("VERDICT: PARITY")
    code, said = gate(native, official, "--json", "--junit", str(tmp_path / "gate.xml"))
    assert code == 2 and json.loads(said)["outcome"] == "undecided"


def grey(made: dict[str, Any]) -> None:
    made["video_frames"] = torch.full_like(made["video_frames"], 128)


def noisy(made: dict[str, Any]) -> None:
    """Frames at about 15.8 dB: noise of a standard deviation of 41 levels."""
    noise = torch.randn(made["video_frames"].shape, generator=torch.Generator().manual_seed(3)) * 41
    made["video_frames"] = (made["video_frames"] + noise).clamp(0, 255).to(torch.uint8)


def tens_of_times(made: dict[str, Any]) -> None:
    made["video_latent"] = made["video_latent"] * -30


def smaller(made: dict[str, Any]) -> None:
    made["video_frames"] = made["video_frames"][:, :, :-8]


def other_rate(made: dict[str, Any]) -> None:
    made["sample_rate_hz"] = 44100


@pytest.mark.parametrize("change", [grey, noisy, tens_of_times, smaller, other_rate])
@pytest.mark.parametrize("runner", ["native", "engine"])
def test_what_is_plainly_not_the_model_is_not_at_parity_wherever_limits_were_measured(
    gate: Gate, leave_run: LeaveRun, change: Callable[[dict[str, Any]], None], runner: str
) -> None:
    official = leave_run("official", environment=ELSEWHERE)
    wrong = {"runner": runner, "tier": "fast", "change": change, "environment": ELSEWHERE}
    good = gate(leave_run("good", runner=runner, tier="fast", environment=ELSEWHERE), official)
    assert good[0] == 2, "limits that were measured elsewhere pass nothing"
    assert gate(leave_run("whole", **wrong), official)[0] == 1
    # without a trace, or with a tap that the case does not leave
    assert gate(leave_run("bare", **wrong, blocks=None), official)[0] == 1
    assert gate(leave_run("more", **wrong, extra="denoise/000/isolated/block/09/video/ff"), official)[0] == 1


def with_alpha(made: dict[str, Any]) -> None:
    made["video_frames"] = torch.cat((made["video_frames"], made["video_frames"][..., :1]), dim=-1)


def without_batch(made: dict[str, Any]) -> None:
    made["video_latent"] = made["video_latent"][0]


def one_channel(made: dict[str, Any]) -> None:
    made["audio_waveform"] = made["audio_waveform"][0]


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (with_alpha, "video_frames: of the candidate has shape (5, 24, 40, 4); wanted (F, H, W, 3)"),
        (without_batch, "video_latent: of the candidate has shape (128, 2, 3, 4); wanted 5 axes"),
        (one_channel, "audio_waveform: of the candidate has shape (2400,); wanted 2 axes"),
    ],
)
@pytest.mark.parametrize("runner", ["native", "engine"])
@pytest.mark.parametrize("environment", [{}, ELSEWHERE], ids=["here", "elsewhere"])
def test_outputs_of_a_shape_that_no_run_has_are_not_at_parity(
    gate: Gate,
    leave_run: LeaveRun,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    change: Callable[[dict[str, Any]], None],
    named: str,
    runner: str,
    environment: dict[str, str],
) -> None:
    monkeypatch.setattr("parity.runs.folder.write_mp4", lambda *_: None)  # no clip can be made of them
    official = leave_run("official")
    for name, blocks in (("whole", 3), ("bare", None)):
        wrong = leave_run(name, runner=runner, change=change, environment=environment, blocks=blocks)
        code, said = gate(wrong, official)
        assert code == 1 and f"FAIL shape_mismatch in {named}" in said
        assert gate(wrong, official, "--isolated", "/dev/zero")[0] == 1
    numbers = tmp_path / "numbers.json"
    assert CliRunner().invoke(app, ["diff", str(official), str(wrong), "--out", str(numbers)]).exit_code == 0
    assert CliRunner().invoke(app, ["diff", str(official), str(wrong)]).exit_code == 0
    assert CliRunner().invoke(app, ["gate", str(numbers), "--numbers"]).exit_code == 1


@pytest.mark.parametrize("isolated", ["/dev/zero", "/nonexistent/isolated.json", "."])
def test_isolated_errors_that_cannot_be_read_turn_no_failure_into_no_judgement(
    gate: Gate, leave_run: LeaveRun, isolated: str
) -> None:
    official = leave_run("official")
    wrong = leave_run("wrong", runner="native", tier="fast", change=grey)
    code, said = gate(wrong, official, "--isolated", isolated)
    assert code == 1 and "FAIL not_isolated in isolated: " in said
    assert gate(leave_run("good", runner="native", tier="fast"), official, "--isolated", isolated)[0] == 2


def no_drift(numbers: dict[str, Any]) -> None:
    numbers["metrics"] = {name: value for name, value in numbers["metrics"].items() if not name.startswith("drift.")}
    del numbers["levels"]["drift"]


def no_levels(numbers: dict[str, Any]) -> None:
    no_drift(numbers)
    del numbers["levels"]


def empty_levels(numbers: dict[str, Any]) -> None:
    no_drift(numbers)
    numbers["levels"] = {}
    numbers["metrics"] = {name: one for name, one in numbers["metrics"].items() if "bit_equal" in name}


def nothing_offered(numbers: dict[str, Any]) -> None:
    names = [name for name in numbers["metrics"] if name.startswith("drift.")]
    no_drift(numbers)
    numbers["levels"]["drift"] = {"measured": True, "without": names}


def no_count(numbers: dict[str, Any]) -> None:
    del numbers["metrics"]["taps.bit_different"]


@pytest.mark.parametrize("change", [no_drift, no_levels, empty_levels, nothing_offered, no_count])
@pytest.mark.parametrize("tier", ["exact", "fast"])
def test_saved_numbers_of_a_known_runner_do_not_say_themselves_what_is_owed(
    gate: Gate, leave_run: LeaveRun, tmp_path: Path, change: Callable[[dict[str, Any]], None], tier: str
) -> None:
    official, numbers = leave_run("official"), tmp_path / "numbers.json"

    def judged(run: Path, change: Callable[[dict[str, Any]], None] | None) -> tuple[int, str]:
        assert CliRunner().invoke(app, ["diff", str(official), str(run), "--out", str(numbers)]).exit_code == 0
        if change is not None:
            document = json.loads(numbers.read_text())
            change(document)
            numbers.write_text(json.dumps(document))
        found = CliRunner().invoke(app, ["gate", str(numbers), "--numbers"], env={"COLUMNS": "300"})
        return found.exit_code, found.output

    for name, error in (("wrong", 0.5), ("right", 0.0)):
        run = leave_run(name, runner="native", tier=tier, first=FIRST if error else None, error=error)
        assert judged(run, None)[0] == (1 if error else 0)
        code, said = judged(run, change)
        left = {("exact", no_drift), ("exact", no_levels), ("exact", nothing_offered), ("fast", no_count)}  # what fails
        assert code == (1 if error and (tier, change) in left else 2)
        if (tier, change) != ("fast", empty_levels):  # where nothing is left that a limit could be held to
            assert "FAIL missing_trace in drift: runner 'native' owes its taps, and " in said
    foreign = leave_run("foreign", runner="engine", tier=tier, blocks=None)
    code, said = judged(foreign, change if change is not no_count else None)
    assert "owes its taps" not in said


def test_a_candidate_that_says_its_threads_were_others_is_judged_by_limits_and_the_first_line_says_why(
    gate: Gate, leave_run: LeaveRun
) -> None:
    moved = {"runner": "native", "first": FIRST, "error": 1e-3}
    official = leave_run("official")
    assert gate(leave_run("same", **moved), official)[0] == 1
    code, said = gate(leave_run("other", **moved, environment={"threads": 3}), official)
    assert code == 0 and said.splitlines()[0] == (
        "VERDICT: PARITY (judged by limits and not by bits, since environments differ (threads: 2 against 3), on "
        "outputs and drift of 263 taps, without isolated errors)"
    )
    away = {"threads": 3, "python": "3.12.1", "cpu": "Epyc", "torch": "2.14.0"}
    assert "; 1 more), on outputs" in gate(leave_run("away", **moved, environment=away), official)[1].splitlines()[0]
    fast = leave_run("fast", **{**moved, "tier": "fast"}, environment={"threads": 3})
    assert "judged by limits on outputs" in gate(fast, official)[1].splitlines()[0], "bits were never asked of it"


def junk(run: Path) -> None:
    (run / "trace.safetensors").write_bytes(bytes(100))


def more_buckets(run: Path) -> None:
    table = read_trace(run).part(None)
    empty = torch.zeros(len(table.names), table.buckets)
    write_trace(run, replace(table, buckets=2 * table.buckets, floats=torch.cat((empty, table.floats), dim=1)))


@pytest.mark.parametrize("spoil", [junk, more_buckets])
@pytest.mark.parametrize("environment", [{}, ELSEWHERE], ids=["here", "elsewhere"])
def test_a_trace_that_cannot_be_read_keeps_nothing_that_fails_from_deciding(
    gate: Gate, leave_run: LeaveRun, spoil: Callable[[Path], None], environment: dict[str, str]
) -> None:
    official = leave_run("official", environment=environment)
    for change, wanted in ((grey, 1), (None, 2)):
        run = leave_run(f"spoiled{wanted}", runner="engine", tier="fast", change=change, environment=environment)
        spoil(run)
        document = json.loads((run / "run.json").read_text())
        document["files"]["trace.safetensors"] = sha256_of(run / "trace.safetensors")
        (run / "run.json").write_text(json.dumps(document))
        code, said = gate(run, official)
        assert code == wanted and "unreadable_trace" in said


def test_a_cache_that_skips_passes_is_not_at_parity(gate: Gate, leave_run: LeaveRun) -> None:
    official = leave_run("official")
    others = "text/* connector/* image/* init/* decode/* denoise/000/* "
    others += " ".join(f"denoise/001/{name}/*" for name in ("cond", "perturbed", "isolated", "guided", "latent"))
    for change, wanted in ((tens_of_times, 1), (None, 2)):  # within every limit, what it left out stays unknown
        run = leave_run(f"skipping{wanted}", runner="engine", change=change)
        left = read_trace(run).part(others)
        write_trace(run, replace(left, pattern=None))
        document = json.loads((run / "run.json").read_text())
        document["files"]["trace.safetensors"] = sha256_of(run / "trace.safetensors")
        (run / "run.json").write_text(json.dumps(document))
        code, said = gate(run, official)
        assert code == wanted and "missing_tensor" in said


def test_drift_is_of_the_taps_that_a_golden_keeps_sketches_of_and_bits_are_of_all(
    gate: Gate, leave_run: LeaveRun
) -> None:
    golden.bless(read_run(leave_run("official", frames=(5, 64, 96))), "first", reduced=True)
    kept = len(read_trace(golden.golden_of("micro").folder))
    exact = CliRunner().invoke(app, ["gate", str(leave_run("exact", runner="native", frames=(5, 64, 96)))]).stdout
    assert "(judged by equality of outputs and 263 taps)" in exact.splitlines()[0] and kept < 263
    fast = leave_run("fast", runner="native", tier="fast", frames=(5, 64, 96), environment=ELSEWHERE)
    document = json.loads(CliRunner().invoke(app, ["gate", str(fast), "--json"]).stdout)
    assert f"limits on outputs and drift of {kept} of 263 taps" in document["judged_by"]


@pytest.mark.parametrize("done", ["altered", "removed"])
@pytest.mark.parametrize("tier", ["exact", "fast"])
def test_a_candidate_that_calls_its_trace_old_owes_its_text_taps_all_the_same(
    gate: Gate, leave_run: LeaveRun, done: str, tier: str
) -> None:
    official, run = leave_run("official"), leave_run("run", runner="native", tier=tier)
    table = read_trace(run).part(None if done == "altered" else "connector/* image/* init/* decode/* denoise/*")
    floats, integers = table.floats.clone(), table.integers.clone()
    if done == "altered":
        row = table.names.index("text/pos/hidden")
        floats[row], integers[row, 0] = floats[row] * 1.5, 7
    write_trace(run, replace(table, pattern=None, padded_text=True, floats=floats, integers=integers))
    document = json.loads((run / "run.json").read_text())
    document["files"]["trace.safetensors"] = sha256_of(run / "trace.safetensors")
    (run / "run.json").write_text(json.dumps(document))
    code, said = gate(run, official)
    assert code == 2 and "FAIL missing_trace in text/pos/hidden: " in said
    assert gate(run, leave_run("old", padded_text=True))[0] == 0, "an old reference excuses it"


@pytest.mark.parametrize("altered", [False, True])
@pytest.mark.parametrize("tier", ["exact", "fast"])
def test_a_reduced_run_is_a_reference_and_no_candidate(
    gate: Gate, leave_run: LeaveRun, tmp_path: Path, altered: bool, tier: str
) -> None:
    official = leave_run("official", frames=(5, 64, 96))
    golden.bless(read_run(official), "first", reduced=True)
    copied = Path(shutil.copytree(golden.golden_of("micro").folder, tmp_path / "copied"))
    document = json.loads((copied / "run.json").read_text())
    document |= {"runner": "native", "tier": tier, "run_id": "ab" * 16, "end_to_end_s": 5.0123456789}
    if altered:  # what no hash that it claims of its frames shows
        held = load_file(copied / "reduced.safetensors")
        held["small_frames"][3].fill_(128)
        save_file(held, copied / "reduced.safetensors", metadata={"frame_shape": "5 64 96", "box_px": "8"})
        document["files"]["reduced.safetensors"] = sha256_of(copied / "reduced.safetensors")
    (copied / "run.json").write_text(json.dumps(document))
    numbers = tmp_path / "numbers.json"
    for against in (golden.golden_of("micro").folder, official):
        code, said = gate(copied, against)
        assert code != 0 and "FAIL reduced_candidate in outputs: " in said and "run the case again" in said
        assert CliRunner().invoke(app, ["diff", str(against), str(copied), "--out", str(numbers)]).exit_code == 0
        assert CliRunner().invoke(app, ["gate", str(numbers), "--numbers"]).exit_code == code
        assert code == 2 or (altered and tier == "fast")


def story_of(gate: Gate, run: Path, official: Path) -> str:
    """The line that the gate says of where to look, which `parity explain` begins with, word for word."""
    code, said = gate(run, official)
    assert code == 1
    line = said.splitlines()[1]
    assert json.loads(gate(run, official, "--json")[1])["explanation"] == line
    explained = CliRunner().invoke(app, ["explain", str(run), "--against", str(official)])
    assert explained.stdout.splitlines()[0] == line
    return line


def test_an_output_beyond_its_limit_while_no_tap_departs_is_one_story(gate: Gate, leave_run: LeaveRun) -> None:
    official = leave_run("official")
    within = {"runner": "engine", "tier": "fast", "first": "decode/waveform", "error": 1e-3, "change": grey}
    assert story_of(gate, leave_run("within", **within), official) == (
        "262 of 263 taps equal in every bit; `decode/waveform` alone differs although its input `decode/mel` is equal: "
        "look at the vocoder and its resampling filters, the order of its channels, its bandwidth extension, or the "
        "dtype that these run in; no tap departs beyond harmless noise, yet "
        "frames.flicker.max is 67.3611 levels, wanted <= 0.141421 levels: beyond its limit (and 8 more)"
    )
    equal = leave_run("equal", runner="engine", tier="fast", change=grey)
    assert story_of(gate, equal, official).startswith("all 263 taps are equal in every bit, yet frames.")
    far = leave_run("far", runner="engine", tier="fast", first=FIRST, error=0.5)
    assert "the feed-forward branch" in story_of(gate, far, official).split(": look at ")[1]
