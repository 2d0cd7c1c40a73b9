"""The program that runs one case in an interpreter of its own; `parity.runs.child` starts it and reads what it leaves.

    PYTHON child_main.py REQUEST.json

The interpreter needs Python 3.11, torch, numpy, safetensors and whatever the runner itself imports, but nothing else
that this project depends on. docs/runners.md describes both sides.

The request names the case, the weights and the runner. What comes back lies beside it: `outputs.safetensors`, the trace
if taps were asked for, and last of all `result.json`. On standard output go JSON lines: `{"stage": NAME}`,
`{"step": [I, N]}` and, if it fails, `{"error": {"kind": CLASS, "message": TEXT}}`, with the engine's own traceback in
`traceback.txt`. Anything that the runner prints goes to standard error. Standard input stays open as long as the parent
lives; when it ends, so does this process.
"""

import contextlib
import gc
import json
import os
import signal
import sys
import threading
from importlib.machinery import PathFinder  # here, since a finder that imports asks itself first
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from importlib.machinery import ModuleSpec

    from torch import device as Device

    from runners.weights import Weights

ROOT = Path(__file__).resolve().parents[2]
PROTOCOL = 6
RESULT_FILE = "result.json"
TRACEBACK_FILE = "traceback.txt"
MARK = "PARITY_CHILD"  # environment variable that everything started here inherits, each child's with its own value
TERMINATED = 143  # exit status after SIGTERM, as shells write it


def main(request_path: Path) -> int:
    """Run the request; the exit status is 0 if `result.json` was written."""
    say = _Messages(_claim_output())
    _end_with_parent()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(TERMINATED))  # leave by unwinding, so that locks and files close
    if sys.version_info < (3, 11):  # noqa: UP036 - this file is read by interpreters that were not installed for us
        say.error("RunnerError", f"{sys.executable} is Python {sys.version.split()[0]}; 3.11 or later is needed.")
        return 1
    gc.set_threshold(100_000, 10, 10)  # `parity.cli.main` says why
    del sys.path[0]  # this file's own folder, whose modules would hide others of their names
    import_ours()
    try:
        answer(json.loads(request_path.read_bytes()), request_path.parent, say)
    except (Exception, KeyboardInterrupt) as error:
        import traceback

        traceback.print_exc()
        _keep_traceback(request_path.parent, error)
        ours = type(error).__module__ in ("runners.errors", "runners.ltx23.stages.batch")
        what = str(error) if ours else f"{type(error).__name__}: {error}"
        if isinstance(error, ModuleNotFoundError):
            what = f"{sys.executable} cannot import a module ({error}); docs/runners.md says what it needs."
        say.error(type(error).__name__ if ours else "RunnerError", what)
        return 1
    return 0


class _Ours:
    """Finds the two packages of this project, and nothing else of the folder that they are installed in."""

    @staticmethod
    def find_spec(name: str, path: object = None, target: object = None) -> "ModuleSpec | None":
        """The spec of one of the packages; what lies in them is found by their own paths."""
        return PathFinder.find_spec(name, [str(ROOT)]) if name in ("parity", "runners") else None


def import_ours() -> None:
    """Let `parity` and `runners` be imported from where this file is.

    A checkout has nothing beside them. Where they are installed from a wheel, the other packages of that environment
    lie beside them, which would hide those of the interpreter that runs this.
    """
    if (ROOT / "pyproject.toml").is_file():
        sys.path.insert(0, str(ROOT))
    elif _Ours not in sys.meta_path:
        sys.meta_path.insert(0, _Ours)


def _keep_traceback(folder: Path, error: BaseException) -> None:
    """Leave the traceback of an engine that failed, or of what is none of our refusals, beside the request."""
    import traceback

    from parity.trace.atomic import write_bytes_atomic
    from runners.errors import ParityError

    text = "".join(traceback.format_exception(error))
    if isinstance(error, ParityError):
        text = error.engine_traceback
    if text:
        with contextlib.suppress(OSError, ParityError):
            write_bytes_atomic(folder / TRACEBACK_FILE, text.encode("utf-8", "backslashreplace"))


def answer(request: dict[str, Any], folder: Path, say: "_Messages") -> None:
    """Run the case of a request and leave its files in `folder`, `result.json` last."""
    import torch

    from parity.runs.execute import execute, writing_trace
    from parity.runs.outputs import OUTPUTS, write_outputs
    from parity.trace.atomic import write_json_atomic
    from runners.case import case_of
    from runners.catalogue import open_runner
    from runners.protocol import DTYPES, RunOptions

    if request["protocol"] != PROTOCOL:
        raise ValueError(f"the request is of protocol {request['protocol']}, this program of {PROTOCOL}")
    if request["threads"] is not None:
        torch.set_num_threads(request["threads"])
    device = torch.device(request["device"])
    options = RunOptions(
        device=device,
        dtype=DTYPES[request["dtype"]],
        tier=request["tier"],
        behaviours=request["behaviours"],
        engine=request["engine_options"],
    )
    taps = request["recording"]
    runner = open_runner(
        request["runner"],
        weights_of(request["weights"], device),
        options,
        request["overrides"],
        request["command_line"],
        *(None if request[root] is None else Path(request[root]) for root in ("official_root", "engine_root")),
    )
    case = case_of(request["case"], request["case_folder"], request["lora_files"])
    outcome = execute(runner, case, options, say, None if taps is None else writing_trace(**taps)(folder))
    write_outputs(folder, outcome)
    numbers = {name: value for name, value in vars(outcome).items() if name not in OUTPUTS}
    write_json_atomic(folder / RESULT_FILE, {**numbers, "sigmas": outcome.sigmas.tolist()})


def weights_of(named: str | dict[str, Any], device: "Device") -> "Weights":
    """The weights that a request names: a folder's path, or a recipe by which they are made on the device that asks.

    Raises: CheckpointError for a folder that is not whole; RunnerError if this interpreter makes other bits.
    """
    from runners.errors import RunnerError
    from runners.forge.weights import ForgedWeights, TensorMaker
    from runners.weights import WeightsFolder

    if isinstance(named, str):
        return WeightsFolder(Path(named))
    model, gemma = ({name: tuple(shape) for name, shape in named[part].items()} for part in ("model", "gemma"))
    prepared = TensorMaker(model=model, gemma=gemma, gemma_folder=Path(named["gemma_folder"]))
    made = ForgedWeights(named["preset"], named["seed"], device, prepared)
    if made.recipe != named["recipe"]:
        raise RunnerError(
            f"{sys.executable} makes other weights of forge:{made.preset}:{made.seed} than the interpreter that asked "
            "for them; write them with `parity forge --out DIR`, and pass DIR."
        )
    return made


class _Messages:
    """Says what happens, one JSON line each; a `runners.clock.Progress`."""

    def __init__(self, output: TextIO) -> None:
        self._output = output

    def stage(self, name: str) -> None:
        """A stage begins."""
        self._say({"stage": name})

    def step(self, index: int, count: int) -> None:
        """A step is done."""
        self._say({"step": [index, count]})

    def error(self, kind: str, message: str) -> None:
        """The run failed."""
        self._say({"error": {"kind": kind, "message": message[:4000]}})

    def _say(self, message: dict[str, Any]) -> None:
        self._output.write(json.dumps(message) + "\n")
        self._output.flush()


def _claim_output() -> TextIO:
    """Keep standard output for messages; what the runner prints goes to standard error."""
    kept = os.dup(1)
    os.dup2(2, 1)
    return os.fdopen(kept, "w", encoding="utf-8")


def kill_marked(mark: str | None) -> None:
    """Kill every other process with a mark in its environment, whatever its session or parent; needs /proc."""
    if mark is None:
        return
    wanted = f"{MARK}={mark}".encode()
    for path in Path("/proc").glob("[0-9]*/environ"):
        pid = int(path.parent.name)
        with contextlib.suppress(OSError):  # it has ended, or is another user's
            if pid != os.getpid() and wanted in path.read_bytes().split(b"\0"):
                os.kill(pid, signal.SIGKILL)


def _end_with_parent() -> None:
    """Kill this process, and with it whatever it started, once standard input ends: then the parent is gone."""
    lifeline = os.dup(0)
    os.set_inheritable(lifeline, False)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)

    def wait() -> None:
        while os.read(lifeline, 1):
            pass
        kill_marked(os.environ.get(MARK))
        if os.getpgrp() == os.getpid():  # as the parent starts it
            os.killpg(os.getpid(), signal.SIGKILL)
        os._exit(TERMINATED)

    threading.Thread(target=wait, daemon=True).start()


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
elif __name__ == "__mp_main__":  # a process that an engine spawns begins as this one did
    import_ours()
