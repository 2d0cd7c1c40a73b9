"""A case in another interpreter: the same run, the same errors, and nothing left of it when it is stopped."""

import json
import os
import re
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from parity.cli.app import app
from parity.runs.child import ChildRunner, environment_in
from parity.runs.execute import TRACEBACK_FILE, Listening, run_to_folder, writing_trace
from parity.runs.folder import read_run
from parity.trace.file import read_trace
from runners.case import Case, case_document, case_of
from runners.clock import Progress, Quiet
from runners.errors import CaseError, MediaError, ParityError, RunError, RunnerError
from runners.forge.weights import ForgedWeights
from runners.protocol import RunOptions
from runners.tap import listening
from runners.weights import WeightsFolder

pytestmark = pytest.mark.slow

HERE = Path(sys.executable)
ROOT = Path(__file__).parents[3]
BF16 = RunOptions(device=torch.device("cpu"))
MakeCase = Callable[..., Case]


@pytest.fixture
def grey(tmp_path: Path) -> Path:
    """The engine that docs/runners.md shows."""
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs/runners.md").read_text(), re.DOTALL)
    (code,) = (block for block in blocks if "class Grey" in block)
    (tmp_path / "grey.py").write_text(code)
    return tmp_path / "grey.py"


def changed(grey: Path, change: str, name: str = "Other") -> str:
    """A runner that is Grey but for `change`, a body of a class."""
    path = grey.with_name(f"{name.lower()}.py")
    body = textwrap.indent(textwrap.dedent(change), "    ")
    path.write_text(
        f"import dataclasses, os, subprocess, sys, time\n{grey.read_text()}\n\nclass {name}(Grey):\n{body}\n"
    )
    return f"{path}:{name}"


def run_in_child(
    runner: str,
    weights: WeightsFolder | ForgedWeights,
    case: Case,
    out: Path,
    progress: Progress | None = None,
    tracing: Listening | None = None,
    **others: Any,
) -> None:
    """Run a case in a child and leave the run folder `out`."""
    threads = torch.get_num_threads()  # as many as here, for the same bits
    fields = {"python": HERE, "name": runner, "weights": weights, "threads": threads, "options": BF16, "beside": out}
    run_to_folder(ChildRunner(**{**fields, **others}), case, weights, BF16, out, progress or Quiet(), tracing)


def python_without(folder: Path, first: str = "") -> Path:
    """An interpreter that has torch, numpy and safetensors alone, and runs the statement `first` at its start."""
    absent = ("msgspec", "typer", "rich", "einops", "av", "PIL", "transformers", "skimage", "pytest", "sentencepiece")
    (folder / "start.py").write_text(
        f"import runpy, sys\nsys.modules.update(dict.fromkeys({absent!r}))\n"
        f"sys.argv = sys.argv[2:]\n{first}\nrunpy.run_path(sys.argv[0], run_name='__main__')\n"
    )
    bare = folder / "bare-python"
    bare.write_text(f'#!/bin/sh\nexec "{HERE}" "{folder / "start.py"}" "$@"\n')
    bare.chmod(0o755)
    return bare


def gone(pid: int) -> bool:
    """True if a process has ended (or is only waiting to be reaped by somebody else)."""
    for _ in range(200):
        try:
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return True
        except OSError:
            return True
        time.sleep(0.05)
    return False


def pids_in(path: Path) -> list[int]:
    for _ in range(1200):
        if path.is_file() and len(pids := path.read_text().split()) == 2:
            return [int(pid) for pid in pids]
        time.sleep(0.1)
    raise AssertionError("the child never started")


def test_the_engine_of_the_documentation_runs_with_torch_numpy_and_safetensors_alone(
    grey: Path, micro_weights: WeightsFolder, micro_case: MakeCase, tmp_path: Path
) -> None:
    tracing = writing_trace("denoise/*", "full")
    python = python_without(tmp_path)
    run_in_child(f"{grey}:Grey", micro_weights, micro_case(), tmp_path / "run", tracing=tracing, python=python)
    run = read_run(tmp_path / "run")
    assert run.manifest.runner == "grey"
    assert run.manifest.details["shade"] == int(run.outputs().video_frames[0, 0, 0, 0])
    assert list(read_trace(run.folder)) == ["denoise/000/latent/video", "denoise/001/latent/video"]
    assert run.has("tensors.safetensors")


SUMS = """
def run(self, case, progress):
    from runners.checksum import checksum64
    sums = {}
    for source in (self.weights.model, self.weights.gemma):
        for name in source.shapes:
            sums[name] = f"{checksum64(source.read([name], self.options.device)[name]):016x}"
    files = sorted(path.name for path in self.weights.gemma_folder.iterdir())
    return dataclasses.replace(super().run(case, progress), details={"sums": sums, "files": files})
"""


def test_weights_made_on_the_spot_are_the_same_bits_in_a_child_with_torch_numpy_and_safetensors_alone(
    grey: Path, tiny_weights: WeightsFolder, micro_case: MakeCase, tmp_path: Path
) -> None:
    made = ForgedWeights("tiny", 0, torch.device("cpu"))
    run_in_child(changed(grey, SUMS), made, micro_case(), tmp_path / "run", python=python_without(tmp_path))
    record = read_run(tmp_path / "run").manifest
    written = {name: f"{value:016x}" for name, _, _, value in tiny_weights.model.checksums()}
    written |= {name: f"{value:016x}" for name, _, _, value in tiny_weights.gemma.checksums()}
    assert record.details["sums"] == written
    assert record.weights_hash == tiny_weights.hash
    assert record.details["files"] == sorted(path.name for path in made.gemma_folder.iterdir())  # and still there


def test_a_child_that_makes_other_bits_of_a_recipe_is_refused(grey: Path, micro_case: MakeCase, tmp_path: Path) -> None:
    other = f"sys.path.insert(0, {str(ROOT)!r}); import runners.forge.make; runners.forge.make.SPEC_VERSION = 9"
    made = ForgedWeights("tiny", 0, torch.device("cpu"))
    python = python_without(tmp_path, other)
    with pytest.raises(RunnerError, match=r"makes other weights of forge:tiny:0 .*parity forge --out"):
        run_in_child(f"{grey}:Grey", made, micro_case(), tmp_path / "run", python=python)


@pytest.mark.parametrize(
    ("body", "error", "sentence"),
    [
        (
            "raise __import__('runners.errors').errors.MediaError('no\\x1b[31m film')",
            MediaError,
            r"^no\\x1b\[31m film$",
        ),
        (
            "raise ValueError('a bug')",
            RunnerError,
            r"^Runner 'grey' failed at \w+\.py:\d+: ValueError: a bug\nThe engine's trace",
        ),
        ("print('to nobody'); print('last words', file=sys.stderr); os._exit(7)", RunnerError, "status 7.*last words"),
        ("os.kill(os.getpid(), 9)", RunnerError, "by signal 9"),
        ("raise SystemExit(3)", RunnerError, "status 3"),
        (
            "import no_such_library",
            RunnerError,
            r"^Runner 'grey' needs a module that .* cannot import \(No module named 'no_such_library'\).*docs/runners",
        ),
    ],
)
def test_an_error_in_the_child_is_raised_here_and_leaves_no_run(
    body: str,
    error: type[ParityError],
    sentence: str,
    grey: Path,
    micro_weights: WeightsFolder,
    micro_case: MakeCase,
    tmp_path: Path,
    warm: Path,
) -> None:
    runner = changed(grey, f"def run(self, case, progress):\n    {body}")
    with pytest.raises(error, match=re.compile(sentence, re.DOTALL)):
        run_in_child(runner, micro_weights, micro_case(), tmp_path / "run", python=warm)
    left = {path.name for path in tmp_path.glob("*run*")}
    last = {"a bug": "ValueError: a bug", "library": "ModuleNotFoundError: No module named", "words": "last words"}
    said = [text for part, text in last.items() if part in body]
    assert left == ({"run.crashed"} if said else set())  # one of our own refusals, or nothing said: nothing kept
    assert all(text in (tmp_path / "run.crashed" / TRACEBACK_FILE).read_text().splitlines()[-1] for text in said)


@pytest.mark.parametrize(
    ("body", "error", "sentence"),
    [
        ("name = 'official'", RunnerError, "calls itself 'official'.*are taken"),
        ("name = '../x'", RunnerError, "calls itself '../x'"),
        (
            "def run(self, *a):\n    out = super().run(*a)\n"
            "    return dataclasses.replace(out, video_frames=out.video_frames[1:])",
            RunError,
            r"frames are \(8, 64, 96, 3\); the case asks for \(9, 64, 96, 3\)",
        ),
        (
            "def run(self, *a):\n    return dataclasses.replace(super().run(*a), step_s=[-1.0])",
            RunError,
            "a time that is negative",
        ),
        (
            "def run(self, *a):\n    return dataclasses.replace(super().run(*a), stage_s={'a': float('nan')})",
            RunError,
            "does not have its form.*stage_s",
        ),
        (
            "def run(self, *a):\n    out = super().run(*a)\n"
            "    return dataclasses.replace(out, audio_waveform=out.audio_waveform.double())",
            RunError,
            "audio_waveform .* is F64",
        ),
        (
            "def run(self, *a):\n    return dataclasses.replace(super().run(*a), step_s=[0.5] * 3)",
            RunError,
            "times of 3 steps; the case asks for 2",
        ),
    ],
)
def test_what_a_child_leaves_is_not_believed(
    body: str,
    error: type[ParityError],
    sentence: str,
    grey: Path,
    micro_weights: WeightsFolder,
    micro_case: MakeCase,
    tmp_path: Path,
    warm: Path,
) -> None:
    runner = changed(grey, body)
    with pytest.raises(error, match=re.compile(sentence, re.DOTALL)):
        run_in_child(runner, micro_weights, micro_case(), tmp_path / "run", python=warm)
    assert not list(tmp_path.glob("*run*"))


@pytest.mark.parametrize(
    ("said", "sentence"),
    [("_say({'wave': 1})", "no message of the protocol"), ("step(3, 2)", r"said '\{\"step\": \[3, 2\]\}")],
)
def test_a_child_that_breaks_the_protocol_is_ended_at_once(
    said: str, sentence: str, grey: Path, micro_weights: WeightsFolder, micro_case: MakeCase, tmp_path: Path
) -> None:
    runner = changed(grey, f"def run(self, case, progress):\n    progress.{said}\n    time.sleep(600)")
    with pytest.raises(RunnerError, match=sentence):
        run_in_child(runner, micro_weights, micro_case(), tmp_path / "run")
    assert not list(tmp_path.glob("*run*"))


STUCK = """
def run(self, case, progress):
    from runners.tap import tap
    import torch
    other = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
    tap("init/video", torch.ones(3))
    with open(os.environ["PARITY_TEST_PIDS"], "w") as file:
        file.write(f"{os.getpid()} {other.pid}")
    progress.step(1, 2)
    time.sleep(600)
"""


def test_an_interrupt_ends_the_child_and_what_it_started_and_keeps_its_taps(
    grey: Path, micro_weights: WeightsFolder, micro_case: MakeCase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pids = tmp_path / "pids"
    monkeypatch.setenv("PARITY_TEST_PIDS", str(pids))

    class Impatient(Quiet):
        def step(self, index: int, count: int) -> None:
            raise KeyboardInterrupt

    stuck, tracing = changed(grey, STUCK), writing_trace("*", "sketch")
    with pytest.raises(KeyboardInterrupt):
        run_in_child(stuck, micro_weights, micro_case(), tmp_path / "run", Impatient(), tracing)
    assert all(gone(pid) for pid in pids_in(pids))
    assert sorted(path.name for path in tmp_path.glob("*run*")) == ["run.crashed"]
    trace = read_trace(tmp_path / "run.crashed")
    assert list(trace) == ["init/video"] and not trace.complete


def test_what_the_engine_leaves_running_is_ended_with_it(
    grey: Path, micro_weights: WeightsFolder, micro_case: MakeCase, tmp_path: Path
) -> None:
    body = (
        "def run(self, *a):\n"
        "    left = subprocess.Popen(['sleep', '600'], start_new_session=True)\n"
        "    return dataclasses.replace(super().run(*a), details={'left': left.pid})"
    )
    runner = changed(grey, body)
    run_in_child(runner, micro_weights, micro_case(), tmp_path / "run")
    assert gone(read_run(tmp_path / "run").manifest.details["left"])


def test_the_child_does_not_outlive_a_parent_that_was_killed(
    grey: Path, micro_weights: WeightsFolder, micro_case: MakeCase, tmp_path: Path
) -> None:
    runner = changed(grey, STUCK)
    (tmp_path / "parent.py").write_text(
        textwrap.dedent(f"""
        import json, sys
        from pathlib import Path
        import torch
        from parity.runs.child import ChildRunner
        from runners.case import case_of
        from runners.clock import Quiet
        from runners.protocol import RunOptions
        from runners.weights import WeightsFolder

        folder = WeightsFolder(Path({str(micro_weights.folder)!r}))
        case = case_of(json.loads(Path({str(tmp_path / "case.json")!r}).read_text()), "/")
        options = RunOptions(device=torch.device("cpu"))
        beside = Path({str(tmp_path / "run")!r})
        child = ChildRunner(
            python=Path(sys.executable), name={runner!r}, weights=folder, options=options, beside=beside
        )
        child.run(case, Quiet())
        """)
    )
    (tmp_path / "case.json").write_text(json.dumps(case_document(micro_case())))
    pids = tmp_path / "pids"
    environment = os.environ | {"PARITY_TEST_PIDS": str(pids), "PYTHONPATH": str(ROOT)}
    parent = subprocess.Popen([str(HERE), str(tmp_path / "parent.py")], env=environment)
    try:
        child, grandchild = pids_in(pids)
        parent.send_signal(signal.SIGKILL)
        assert gone(child) and gone(grandchild)
    finally:
        parent.kill()
        parent.wait()


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"python": Path("/no/such/python")}, "cannot be started"),
        ({"python": Path("/bin/true")}, "left no result.json"),
        ({"python": Path("/bin/echo")}, "no message of the protocol"),
        ({"name": "no_such"}, "Unknown runner 'no_such'"),
        ({"name": "no_such.py:Engine"}, "There is no file .*no_such.py"),
    ],
)
def test_what_cannot_be_started_is_named(
    change: dict[str, Any],
    sentence: str,
    micro_weights: WeightsFolder,
    micro_case: MakeCase,
    tmp_path: Path,
    warm: Path,
) -> None:
    with pytest.raises(ParityError, match=sentence):
        run_in_child("official", micro_weights, micro_case(), tmp_path / "run", **{"python": warm, **change})


def test_a_runner_that_refuses_a_case_refuses_it_in_a_child(
    micro_weights: WeightsFolder, micro_case: MakeCase, tmp_path: Path
) -> None:
    case = micro_case({"request.images": [{"path": "none.png"}]})
    with pytest.raises(CaseError, match=r"'none.png' of case 'micro' is not a file"):
        run_in_child("official", micro_weights, case, tmp_path / "run")


def test_the_command_line_runs_an_engine_of_ones_own_in_another_interpreter(
    grey: Path, micro_weights: WeightsFolder, micro_case_text: str, tmp_path: Path, warm: Path
) -> None:
    (tmp_path / "case.toml").write_text(micro_case_text)
    arguments = ["run", "--case", str(tmp_path / "case.toml"), "--weights", str(micro_weights.folder)]
    arguments += ["--runner", f"{grey}:Grey", "--out", str(tmp_path / "run"), "--threads", str(torch.get_num_threads())]
    done = CliRunner().invoke(app, [*arguments, "--runner-python", sys.executable])
    assert done.exit_code == 0, done.output
    assert "denoising took" in done.stderr and ", 2 steps" in done.stderr
    assert read_run(tmp_path / "run").manifest.details["in_child_process"] is True
    again = [*arguments, "--runner-python", str(warm), "--reference", "1.2.0", "--replace"]
    refused = CliRunner().invoke(app, again)
    assert refused.exit_code == 2 and "does not run reference release '1.2.0'" in refused.output


def test_only_a_recorder_can_listen_to_a_child(grey: Path, micro_weights: WeightsFolder, micro_case: MakeCase) -> None:
    child = ChildRunner(
        python=HERE, name=f"{grey}:Grey", weights=micro_weights, options=BF16, beside=grey.with_name("run")
    )
    with listening(lambda name, tensor: None), pytest.raises(RunnerError, match="only a `TraceWriter` can listen"):
        child.run(micro_case(), Quiet())


def test_a_case_survives_its_document(micro_case: MakeCase) -> None:
    case = micro_case({"request.images": [{"path": "astronaut.png", "strength": 0.25}], "reference": "1.2.0"})
    assert case_of(json.loads(json.dumps(case_document(case))), case.folder) == case


@pytest.mark.parametrize("said", ["exit 0", "echo not a fingerprint", "echo No module named x >&2; exit 1", None])
def test_an_interpreter_that_does_not_say_what_it_is_is_refused_by_name(said: str | None, tmp_path: Path) -> None:
    python = tmp_path / "python"
    if said is not None:
        python.write_text(f"#!/bin/sh\n{said}\n")
        python.chmod(0o755)
    why = "No module named x" if said and "module" in said else ""
    with pytest.raises(RunnerError, match=rf"python does not say what it is \(.*{why}"):
        environment_in(python, torch.device("cpu"), "1.0.0")
