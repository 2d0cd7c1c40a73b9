"""The command line as scripts see it: exit codes, JSON, and one sentence for everything that cannot be judged."""

import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from typer.testing import CliRunner

from parity.cli import verb
from parity.cli.app import app
from parity.runs.folder import OUTPUTS_FILE, RUN_FILE, TRACE_FILE
from parity.trace.file import read_trace
from runners.errors import RunError
from runners.files import sha256_of
from runners.weights import WeightsFolder

pytestmark = pytest.mark.slow

Invoke = Callable[..., Any]


@pytest.fixture(scope="module")
def invoke() -> Invoke:
    """Call `parity` in this process."""

    def call(*arguments: object) -> Any:
        return CliRunner().invoke(app, [str(argument) for argument in arguments])

    return call


@dataclass(frozen=True, kw_only=True)
class Runs:
    """An official and a native run of one case, both with all taps, made through the command line."""

    case: Path
    weights: Path
    official: Path
    native: Path


@pytest.fixture(scope="module")
def runs(
    tmp_path_factory: pytest.TempPathFactory, micro_weights: WeightsFolder, micro_case_text: str, invoke: Invoke
) -> Runs:
    folder = tmp_path_factory.mktemp("runs")
    case = folder / "micro.toml"
    case.write_text(micro_case_text)
    for runner in ("official", "native"):
        arguments = ["--case", case, "--weights", micro_weights.folder, "--out", folder / runner, "--taps", "*"]
        result = invoke("run", "--runner", runner, *arguments, "--quiet")
        assert result.exit_code == 0, result.output
    return Runs(case=case, weights=micro_weights.folder, official=folder / "official", native=folder / "native")


@pytest.fixture
def copy(runs: Runs, tmp_path: Path) -> Path:
    """A copy of the native run, to be spoilt."""
    return Path(shutil.copytree(runs.native, tmp_path / "copy"))


def rewrite_outputs(run: Path, change: Callable[[dict[str, torch.Tensor]], None]) -> None:
    """Change a run's outputs and make its hashes fit again, as a run that really put these out would have them."""
    with safe_open(run / OUTPUTS_FILE, framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        metadata = file.metadata()
    change(tensors)
    save_file(tensors, run / OUTPUTS_FILE, metadata)
    seal(run)


def seal(run: Path) -> None:
    record = json.loads((run / RUN_FILE).read_text())
    record["files"] = {name: sha256_of(run / name) for name in record["files"]}
    (run / RUN_FILE).write_text(json.dumps(record))


def rewrite_manifest(run: Path, **changes: Any) -> None:
    record = json.loads((run / RUN_FILE).read_text())
    (run / RUN_FILE).write_text(json.dumps({**record, **changes}))


def test_native_against_official_exits_0_and_says_so_in_json_and_junit(
    runs: Runs, invoke: Invoke, tmp_path: Path
) -> None:
    result = invoke("gate", runs.native, "--against", runs.official, "--json", "--junit", tmp_path / "gate.xml")
    assert result.exit_code == 0, result.output
    document = json.loads(result.stdout)
    assert (document["parity"], document["profile"], document["exit_code"]) == (True, "exact", 0)
    rows = {row["metric"]: row["value"] for row in document["rows"]}
    assert rows["taps.bit_different"] == 0
    assert rows["outputs.bit_equal.audio"] == 1
    assert "<testsuite" in (tmp_path / "gate.xml").read_text()


def test_a_later_releases_behaviour_is_caught_and_exits_1(runs: Runs, invoke: Invoke, tmp_path: Path) -> None:
    arguments = ["--case", runs.case, "--weights", runs.weights, "--out", tmp_path / "later", "--taps", "*", "--quiet"]
    result = invoke("run", "--runner", "native", *arguments, "--set", "reference.guidance_fp32=true")
    assert result.exit_code == 0, result.output
    result = invoke("gate", tmp_path / "later", "--against", runs.official)
    assert result.exit_code == 1, result.output
    assert "NOT AT PARITY" in result.output


def test_autocast_is_recorded_where_asked_for_and_refused_for_the_oracle(
    runs: Runs, invoke: Invoke, tmp_path: Path
) -> None:
    arguments = ["--case", runs.case, "--weights", runs.weights, "--out", tmp_path / "autocast", "--quiet"]
    assert invoke("run", "--runner", "native", *arguments, "--enable-autocast").exit_code == 0
    assert json.loads((tmp_path / "autocast" / RUN_FILE).read_text())["details"]["disable_autocast"] is False
    result = invoke("run", "--runner", "native", *arguments, "--enable-autocast", "--dtype", "fp32")
    assert (result.exit_code, "autocast" in result.output) == (2, True)


def test_one_changed_byte_of_one_frame_exits_1(runs: Runs, invoke: Invoke, copy: Path) -> None:
    def change(tensors: dict[str, torch.Tensor]) -> None:
        tensors["video_frames"][4, 7, 11, 2] ^= 1

    rewrite_outputs(copy, change)
    assert invoke("gate", copy, "--against", runs.official).exit_code == 1


def test_what_is_damaged_is_named_and_exits_2_unless_it_fails(runs: Runs, invoke: Invoke, copy: Path) -> None:
    def gate() -> Any:
        return invoke("gate", copy, "--against", runs.official)

    def spoil(tensors: dict[str, torch.Tensor]) -> None:
        tensors["audio_waveform"][1, 5] = torch.nan

    with (copy / OUTPUTS_FILE).open("ab") as file:
        file.write(b"x")
    result = gate()
    assert (result.exit_code, "does not have the hash" in result.output) == (2, True)
    shutil.copyfile(runs.native / OUTPUTS_FILE, copy / OUTPUTS_FILE)
    rewrite_outputs(copy, spoil)
    result = gate()
    assert (result.exit_code, "nan_candidate" in result.output) == (1, True)  # its other bits fail by themselves
    rewrite_outputs(copy, lambda tensors: tensors.update(video_frames=tensors["video_frames"][1:].clone()))
    result = gate()
    assert (result.exit_code, "missing_frame" in result.output) == (1, True)
    for change, words in (
        ({"schema_version": 99}, "schema version 99"),
        ({"schema_version": 1, "reference": "9.9.9"}, "the run follows '9.9.9', and its case '1.0.0'"),
        ({"reference": "1.0.0", "weights_hash": ""}, "does not say which weights it was run with"),
    ):
        rewrite_manifest(copy, **change)
        result = gate()
        assert result.exit_code == 2
        assert words in result.output.replace("\n", " ")


def test_another_seed_is_another_case(runs: Runs, invoke: Invoke, tmp_path: Path) -> None:
    arguments = ["--case", runs.case, "--weights", runs.weights, "--out", tmp_path / "seed", "--set", "request.seed=3"]
    assert invoke("run", "--runner", "native", *arguments, "--quiet").exit_code == 0
    result = invoke("gate", tmp_path / "seed", "--against", runs.official)
    assert result.exit_code == 2
    assert "different cases: they differ in request" in result.output.replace("\n", " ")


def test_a_trace_with_a_tap_missing_is_named(runs: Runs, invoke: Invoke, tmp_path: Path) -> None:
    arguments = ["--case", runs.case, "--weights", runs.weights, "--out", tmp_path / "some"]
    pattern = "denoise/*/block/00/video/*"
    assert invoke("run", "--runner", "native", *arguments, "--taps", pattern, "--quiet").exit_code == 0
    rewritten = read_trace(tmp_path / "some")
    assert 0 < len(rewritten) < len(read_trace(runs.native))
    shutil.copyfile(tmp_path / "some" / TRACE_FILE, tmp_path / "trace")
    whole = Path(shutil.copytree(runs.native, tmp_path / "whole"))
    data = (whole / TRACE_FILE).read_bytes()
    (whole / TRACE_FILE).write_bytes(data[: len(data) // 2])
    seal(whole)
    assert invoke("gate", whole, "--against", runs.official).exit_code == 2


def test_bad_requests_exit_2_and_leave_nothing(runs: Runs, invoke: Invoke, tmp_path: Path) -> None:
    good = {
        "--runner": "native",
        "--case": str(runs.case),
        "--weights": str(runs.weights),
        "--out": str(tmp_path / "out"),
    }
    for option, value, words in (
        ("--runner", "nobody", "Unknown runner 'nobody'"),
        ("--case", "no_such_case", "There is no case 'no_such_case'"),
        ("--weights", str(tmp_path / "nowhere"), "No weights folder"),
        ("--weights", "forge:tiny:x", "forge:PRESET:SEED"),
        ("--set", "request.height=65", "multiple of 32"),
        ("--set", "request.num_frames=10", "8k + 1"),
        ("--set", "request.seeed=1", "seeed"),
        ("--taps", "[", "matches no tap"),
        ("--set", "nonsense", "KEY=VALUE"),
        ("--reference", "0.9", "0.9"),
        ("--set", "reference.nonsense=true", "nonsense"),
        ("--tier", "faster", "exact, fast, fp8, fp8x2"),
        ("--dtype", "fp8", "--dtype"),
        ("--device", "cuda:17", "CUDA"),
    ):
        arguments = [part for pair in {**good, option: value}.items() for part in pair]
        result = invoke("run", *arguments, "--quiet")
        assert result.exit_code == 2, (option, value, result.output)
        assert words in result.output.replace("\n", " "), (option, value, result.output)
    assert list(tmp_path.iterdir()) == []


def test_the_official_runner_refuses_options_that_it_would_ignore(runs: Runs, invoke: Invoke, tmp_path: Path) -> None:
    arguments = ["--case", runs.case, "--weights", runs.weights, "--out", tmp_path / "out", "--quiet"]
    for option in (["--enable-autocast"], ["--set", "switches.disable_autocast=false"]):
        result = invoke("run", "--runner", "official", *arguments, *option)
        assert result.exit_code == 2
        assert "disable_autocast" in result.output.replace("\n", "")


def test_a_place_that_cannot_be_written_is_one_sentence(runs: Runs, tmp_path: Path, invoke: Invoke) -> None:
    arguments = ["--runner", "native", "--case", runs.case, "--weights", runs.weights, "--quiet"]
    result = invoke("run", *arguments, "--out", runs.case / "run")  # below a file
    assert result.exit_code == 2 and "internal error" not in result.output
    assert "error: a file or folder cannot be read or written ([Errno" in result.output
    result = invoke("gate", runs.native, "--against", runs.official, "--junit", tmp_path)  # a folder
    assert result.exit_code == 2 and "is no regular file" in result.output and "internal error" not in result.output


@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGINT])
def test_a_run_that_is_told_to_end_exits_2_and_leaves_nothing_half_written(
    sent: signal.Signals, runs: Runs, tmp_path: Path, warm: Path
) -> None:
    longer = ["--set", "request.num_inference_steps=900"]
    arguments = ["--case", runs.case, "--weights", runs.weights, "--out", tmp_path / "out", "--taps", "*", *longer]
    command = [str(warm), "-m", "parity.cli.app", "run", "--runner", "native", *map(str, arguments)]
    # A shell starts what it puts into the background with interrupts ignored, and children inherit that.
    heard = partial(signal.signal, sent, signal.SIG_DFL)
    with subprocess.Popen(
        command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, preexec_fn=heard
    ) as process:
        while not list(tmp_path.glob(".out.*")) and process.poll() is None:
            time.sleep(0.05)
        time.sleep(1.0)  # into the run
        process.send_signal(sent)
        _, said = process.communicate(timeout=60)
    assert process.returncode == 2 and "interrupted" in said
    left = {path.name for path in tmp_path.iterdir()}
    assert left <= {"out.crashed"}  # the taps recorded until then


def test_an_interrupt_that_a_library_swallows_ends_the_run_when_it_next_says_how_far_it_is(
    runs: Runs, tmp_path: Path, warm: Path
) -> None:
    engine = tmp_path / "engine.py"
    engine.write_text(
        "import os, signal\n"
        "try:\n    os.kill(os.getpid(), signal.SIGTERM)\nexcept BaseException:\n    pass\n"
        "from runners.native.runner import NativeRunner\n"
        "class Engine(NativeRunner):\n    name = 'deaf'\n"
    )
    arguments = ["--case", runs.case, "--weights", runs.weights, "--out", tmp_path / "out", "--taps", "*"]
    command = [str(warm), "-m", "parity.cli.app", "run", "--runner", f"{engine}:Engine", *map(str, arguments)]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 2 and "interrupted" in ended.stderr, ended
    assert not (tmp_path / "out").exists()


def test_an_interrupt_inside_exec_exits_2_too(runs: Runs, tmp_path: Path) -> None:
    """Python marks such an interrupt as unhandled even where it was handled, and would end by SIGINT."""
    engine = tmp_path / "engine.py"
    engine.write_text('exec("raise KeyboardInterrupt")\n')
    arguments = ["--case", runs.case, "--weights", runs.weights, "--out", tmp_path / "out"]
    command = [sys.executable, "-m", "parity.cli.app", "run", "--runner", f"{engine}:Engine", *map(str, arguments)]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 2 and "interrupted" in ended.stderr, ended


def test_a_bug_of_ours_or_an_interrupt_is_never_exit_1() -> None:
    for error in (
        *(KeyError("a bug"), KeyboardInterrupt(), MemoryError(), RecursionError()),
        *(SystemExit(0), SystemExit(1), SystemExit("gives [/up]")),
    ):

        def raising(error: BaseException = error) -> int:
            raise error

        with pytest.raises(Exception) as caught:
            verb.verb(raising)()
        assert getattr(caught.value, "exit_code", None) == 2


def test_what_else_went_wrong_on_the_way_out_is_said_as_well(capsys: pytest.CaptureFixture[str]) -> None:
    for error in (RunError("no room"), KeyboardInterrupt(), SystemExit(1), OSError("no disk"), ValueError("a bug")):
        error.add_note("The trace [of] the run could not be closed")

        def raising(error: BaseException = error) -> int:
            raise error

        with pytest.raises(Exception) as caught:
            verb.verb(raising)()
        assert getattr(caught.value, "exit_code", None) == 2
        assert capsys.readouterr().err.count("The trace [of] the run could not be closed") == 1
