"""The files that a reader passes who follows a thing through the project, and how often he comes back into one.

    python bench/follow.py --weights build/weights/tiny [--case tiny_text_only] [--show]

Three things are followed while they are really on their way: a request through `run`, two runs through the gate, and
one tap from the model through record, comparison and verdict. A reader reads each function once, when it is first
called: he goes to its file, reads on whatever that calls, and comes back to the caller's file. A file passed is one
that he opened; he comes back whenever he returns to a caller in a file that he had left. Libraries are not followed.

Two readers are counted. The first reads only functions that are handed the thing, or what has become of it; the second
reads every function of `parity/` and `runners/`, down to the last sum.
"""

import argparse
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

import torch

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("parity", "runners")
TAP = "connector/pos/video"  # the one that is followed
Handed = Callable[[FrameType], bool]


@dataclass(kw_only=True)
class Walk:
    """The way of one reader: files in the order he opened them, with the functions he read in each."""

    handed: Handed  # true of a function that he reads
    files: dict[str, list[str]] = field(default_factory=dict)
    returns: int = 0
    _read: set[tuple[str, str, int]] = field(default_factory=set)
    _open: list[tuple[FrameType, str | None]] = field(default_factory=list)  # calls in progress, and files he reads in
    _here: str = ""

    def see(self, frame: FrameType, event: str, _: object) -> None:
        """Take a call or a return, as `sys.setprofile` gives them."""
        if event == "call" and (name := file_of(frame)) is not None:
            code = frame.f_code
            function = (name, code.co_qualname, code.co_firstlineno)
            new = function not in self._read and self.handed(frame)
            if new:
                self._read.add(function)
                self.files.setdefault(name, []).append(code.co_qualname)
                self._here = name
            self._open.append((frame, name if new else None))
        elif event == "return" and self._open and self._open[-1][0] is frame:
            self._open.pop()
            back = next((name for _, name in reversed(self._open) if name is not None), self._here)
            self.returns += back != self._here
            self._here = back


def file_of(frame: FrameType) -> str | None:
    """A function's file below the root, if it is one to be followed; comprehensions and lambdas are no functions."""
    path, name = Path(frame.f_code.co_filename), frame.f_code.co_name
    if name.startswith("<") or not path.is_relative_to(ROOT):
        return None
    relative = path.relative_to(ROOT)
    return str(relative) if relative.parts[0] in FOLDERS else None


def handed_any(*kinds: type, texts: tuple[str, ...] = ()) -> Handed:
    """A reader of functions with an argument of one of these types, or one of these texts."""

    def handed(frame: FrameType) -> bool:
        code = frame.f_code
        names = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]
        given = [frame.f_locals.get(name) for name in names]
        return any(isinstance(one, kinds) or (isinstance(one, str) and one in texts) for one in given)

    return handed


def follow(call: Callable[[], Any], handed: Handed = lambda _: True) -> Walk:
    """Call, and return what a reader passes meanwhile."""
    walk = Walk(handed=handed)
    before = sys.getprofile()
    sys.setprofile(walk.see)
    try:
        call()
    finally:
        sys.setprofile(before)
    return walk


def ways(weights: Path, case_id: str, scratch: Path) -> Iterator[tuple[str, Callable[[], Any], Handed]]:
    """Each way: its name, the call that goes it, and the reader who follows one thing on it."""
    from parity.diff.runs import RunsDiff
    from parity.diff.sketches import SketchDiff
    from parity.diff.traces import TraceDiff
    from parity.judge.gate import gate
    from parity.judge.verdict import Verdict
    from parity.runs.execute import run_to_folder, writing_trace
    from parity.runs.folder import Run, read_run
    from parity.runs.golden import find_case
    from parity.trace.file import SketchTable, Trace
    from parity.trace.sketch import TapSketch
    from runners.case import Case
    from runners.catalogue import open_runner
    from runners.clock import Quiet
    from runners.ltx23.sampling import LTX23SamplingParams
    from runners.ltx23.stages.batch import Batch
    from runners.protocol import Outcome, RunOptions
    from runners.weights import WeightsFolder

    files, case = WeightsFolder(weights), find_case(case_id)
    options = RunOptions(device=torch.device("cpu"), dtype=torch.bfloat16, tier="exact")

    def run(name: str) -> None:
        engine = open_runner(name, files, options)
        tracing = writing_trace("*", "sketch")
        run_to_folder(engine, case, files, options, scratch / name, Quiet(), tracing, replace=True)

    def judge() -> None:
        gate(read_run(scratch / "official"), read_run(scratch / "native"))

    def record_and_judge() -> None:
        run("native")
        judge()

    run("official")
    yield "a request through `run`", partial(run, "native"), handed_any(Case, LTX23SamplingParams, Batch, Outcome)
    runs = read_run(scratch / "official"), read_run(scratch / "native")
    yield "a run through `gate`", partial(gate, *runs), handed_any(Run, RunsDiff, Verdict)
    of_a_tap = (SketchTable, Trace, TapSketch, SketchDiff, TraceDiff, RunsDiff, Verdict)
    yield "a tap through record, diff and verdict", record_and_judge, handed_any(*of_a_tap, texts=(TAP,))


def main() -> None:
    """Go each way twice, once for each reader, and print what they passed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--case", default="tiny_text_only")
    parser.add_argument("--show", action="store_true", help="The files and functions, too.")
    given = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch:
        for name, call, handed in ways(given.weights, given.case, Path(scratch)):
            for reader, reads in (("handed", handed), ("every", lambda _: True)):
                walk = follow(call, reads)
                print(f"{name}, {reader} function: {len(walk.files)} files, {walk.returns} returns")
                for file, functions in walk.files.items() if given.show else ():
                    print(f"    {file}: {', '.join(functions)}")


if __name__ == "__main__":
    main()
