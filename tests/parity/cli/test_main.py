"""The way into the command line: whatever fails before a verb runs is exit code 2 and one sentence, and it is light."""

import os
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
from typer.testing import CliRunner

from parity.cli.app import app

ROOT = Path(__file__).parents[3]
WAYS = {
    "module": [sys.executable, "-m", "parity"],
    "script": [sys.executable, "-c", "import sys; from parity.cli.main import main; sys.exit(main())"],
    "older script": [sys.executable, "-c", "import sys; from parity.cli.app import main; sys.exit(main())"],
    "module of the verbs": [sys.executable, "-m", "parity.cli.app"],
}
CPU_S = 1.0  # of user time; 0.2 on an idle core, and 2 with torch


def parity(
    *arguments: object, first: Path | None = None, way: str = "module", **variables: str
) -> "subprocess.CompletedProcess[str]":
    """The command line in a process of its own, with modules of the folder `first` before all others."""
    path = os.pathsep.join(map(str, (*([first] if first else []), ROOT)))
    environment = {**os.environ, "PYTHONPATH": path, **variables}
    return subprocess.run(
        [*WAYS[way], *map(str, arguments)],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
        timeout=120,
        # A shell starts what it puts into the background with interrupts ignored, and children inherit that.
        preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
    )


def module(folder: Path, name: str, text: str) -> Path:
    """A folder whose package of that name does what `text` says."""
    (folder / name).mkdir(parents=True)
    (folder / name / "__init__.py").write_text(text)
    return folder


def told_to_nobody(arguments: str, streams: str) -> int:
    """The exit code of the command line with its streams led elsewhere."""
    command = f"set -o pipefail; {sys.executable} -m parity {arguments} {streams}"
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PARITY_ROOT": str(ROOT)}
    return subprocess.run(["bash", "-c", command], capture_output=True, check=False, env=environment).returncode


def sentence(done: "subprocess.CompletedProcess[str]") -> str:
    """The one line that a process said, once its exit code is 2 and it showed no traceback."""
    assert (done.returncode, done.stdout) == (2, ""), done
    (line,) = done.stderr.splitlines()
    return line


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("raise RuntimeError('no \\x1b[31mlibrary')", "RuntimeError"),
        ("raise ImportError('libc10.so: cannot open shared object file')", "libc10.so"),
        ("import no_such_module_of_torch", "no_such_module_of_torch"),
        ("raise MemoryError", "memory"),
        ("raise SystemExit(1)", "exit"),
        ("raise SystemExit(0)", "exit"),
        ("raise KeyboardInterrupt", "interrupted"),
        ("raise BaseException('neither')", "BaseException"),
        ("def broken(:", "SyntaxError"),
        ("import ctypes; ctypes.CDLL('libnone.so')", "libnone.so"),
    ],
)
@pytest.mark.parametrize("package", ["torch", "rich", "typer"])
def test_a_package_that_cannot_be_imported_is_exit_2_and_one_sentence(
    package: str, text: str, said: str, tmp_path: Path
) -> None:
    done = parity("doctor", first=module(tmp_path, package, text), TMPDIR=str(tmp_path))
    line = sentence(done)
    assert said.lower() in line.lower() and "\x1b" not in line, done


@pytest.mark.parametrize("way", WAYS)
def test_every_way_in_ends_alike(way: str, tmp_path: Path) -> None:
    broken = module(tmp_path, "typer", "raise RuntimeError('no typer')")
    if way != "older script":  # which imports the verbs itself
        assert "parity cannot start (RuntimeError: no typer)" in sentence(parity("doctor", first=broken, way=way))
    assert "nowhere" in sentence(parity("case", "--from-request", tmp_path / "nowhere", way=way))
    assert parity("--version", way=way).stdout.startswith("parity ")


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("package", ["typer", "torch"])
@pytest.mark.parametrize("swallowed", [False, True])
def test_an_interrupt_during_an_import_is_exit_2(
    package: str, sent: signal.Signals, swallowed: bool, tmp_path: Path
) -> None:
    kill = f"import os; os.kill(os.getpid(), {int(sent)})"
    body = f"try:\n    {kill}\nexcept BaseException:\n    pass\n" if swallowed else f"{kill}\n"
    # A package that goes on as the real one, which lies behind it on the path.
    body += "import sys, importlib\nplace = sys.path.pop(0)\n"
    body = (
        body if not swallowed else f"{body}del sys.modules[{package!r}]\nimport {package}\nsys.path.insert(0, place)\n"
    )
    line = sentence(parity("gate", tmp_path, first=module(tmp_path / "first", package, body)))
    assert "interrupted" in line or (swallowed and "is not a run" in line)


def test_help_version_and_typing_errors_import_nothing_that_computes(tmp_path: Path) -> None:
    loud = tmp_path
    for package in ("torch", "numpy", "transformers", "safetensors", "fsspec"):
        module(loud, package, f"raise RuntimeError('{package} was imported')")
    for arguments, code in (
        (["--help"], 0),
        (["gate", "--help"], 0),
        (["run", "--help"], 0),
        (["--version"], 0),
        ([], 2),
        (["gaet"], 2),
        (["gate"], 2),
        (["gate", "--nonsense", "x"], 2),
        (["run", "--threads", "many"], 2),
        (["case", "--from-request", "nowhere"], 2),
    ):
        done = parity(*arguments, first=loud)
        assert done.returncode == code and "was imported" not in done.stderr + done.stdout, (arguments, done)
        assert done.stdout or done.stderr.count("\n") == 1, (arguments, done)


def test_help_takes_a_quarter_of_what_it_took_with_torch() -> None:
    before = os.times().children_user
    assert parity("--help").returncode == 0
    assert os.times().children_user - before < CPU_S


def test_a_typing_error_is_one_printable_sentence_and_names_the_way_out() -> None:
    line = sentence(parity("gate", "--no\x1b[31m\n::error::x"))
    assert "\x1b" not in line and "--help` shows what there is" in line


@pytest.mark.parametrize("streams", [">/dev/full", "| true", ">/dev/full 2>/dev/full"])
@pytest.mark.parametrize("arguments", ["--help", "--version"])
def test_output_that_does_not_arrive_is_exit_2(arguments: str, streams: str) -> None:
    assert told_to_nobody(arguments, streams) == 2


@pytest.mark.parametrize("streams", ["2>&-", ">&-", ">&- 2>&-", ">/dev/full 2>/dev/full", "| true"])
def test_what_a_verb_cannot_say_is_exit_2(streams: str, tmp_path: Path) -> None:
    request = tmp_path / "request.json"
    if "2>" not in streams:  # a verb says its errors there, and this on the other stream
        request.write_text(CliRunner().invoke(app, ["case", "--to-request", "tiny_ti2v"]).stdout)
        assert told_to_nobody(f"case --from-request {request}", "") == 0
    assert told_to_nobody(f"case --from-request {request}", streams) == 2


def test_what_an_engine_leaves_behind_does_not_change_the_exit_code(tmp_path: Path) -> None:
    text = (
        "import atexit, sys, threading, time\n"
        "atexit.register(sys.exit, 0)\n"
        "threading.Thread(target=sys.exit, args=(1,)).start()\n"
        "threading.Thread(target=time.sleep, args=(600,)).start()\n"
    )
    code = f"{text}from parity.cli import app, main\napp.call = lambda: int(sys.argv[1])\nmain.main()"
    for wanted in (0, 1, 2):
        done = subprocess.run(
            [sys.executable, "-c", code, str(wanted)], capture_output=True, timeout=60, check=False, cwd=ROOT
        )
        assert done.returncode == wanted, done


@pytest.mark.parametrize(
    ("arguments", "variable", "shown"),
    [(["gate"], "", False), (["--debug", "gate"], "", True), (["gate"], "1", True), (["gate"], "0", False)],
)
def test_debug_prints_the_traceback(
    arguments: list[str], variable: str, shown: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PARITY_DEBUG", variable)  # and --debug sets it for this process
    done = CliRunner().invoke(app, [*arguments, str(tmp_path)])
    assert done.exit_code == 2 and ("Traceback" in done.stderr) is shown and "is not a run" in done.stderr


def test_an_encoding_with_few_signs_is_no_error(tmp_path: Path) -> None:
    done = parity("case", "--from-request", tmp_path / "é漢", PYTHONIOENCODING="ascii")
    assert r"\xe9\u6f22" in sentence(done)


def test_a_run_is_refused_before_what_only_a_run_needs_is_imported(tmp_path: Path) -> None:
    loud = module(tmp_path / "loud", "transformers", "raise RuntimeError('transformers was imported')")
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "run.json").write_text("{}")
    for case, weights, out, said in (
        ("nope", "none", "free", "nope"),
        ("tiny_ti2v", "none", "free", "No weights folder"),
        ("tiny_ti2v", "none", "taken", "taken"),
    ):
        options = ("--runner", "native", "--case", case, "--weights", tmp_path / weights, "--out", tmp_path / out)
        assert said in sentence(parity("run", *options, first=loud))
