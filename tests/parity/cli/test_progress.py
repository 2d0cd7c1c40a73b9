"""Progress: one line a stage with its own time, and a bar that takes nothing over from one stage to the next."""

import io
import re
import subprocess
import sys
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import BarColumn, Progress

from parity.cli import progress as module
from parity.cli.progress import STEPS_EVERY_S
from runners.clock import Clock


class Told:
    """A listener that keeps what it hears."""

    def __init__(self) -> None:
        self.stages: list[str] = []

    def stage(self, name: str) -> None:
        self.stages.append(name)

    def step(self, index: int, count: int) -> None:
        raise AssertionError


def lines_of(calls: list[tuple[float, str, tuple[object, ...]]]) -> list[str]:
    """Lines that are said when these calls come at these times."""
    said: list[str] = []
    now = [0.0]
    lines = module.Lines("native x", said.append, lambda: now[0])
    lines.begin()
    for at, name, arguments in calls:
        now[0] = at
        getattr(lines, name)(*arguments)
    return said


def test_a_stage_is_one_line_with_its_own_time() -> None:
    said = lines_of(
        [
            (2.0, "stage", ("text_encoding",)),
            (2.5, "stage", ("denoising",)),
            (3.0, "step", (1, 2)),
            (3.5, "step", (2, 2)),
            (4.5, "stage", ("video_decoding",)),
            (6.0, "end", ()),
        ]
    )
    assert said == [
        "native x: starting",  # at once, before anything is imported
        "native x: starting took 2.0 s",
        "native x: text_encoding took 0.5 s",
        "native x: denoising took 2.0 s, 2 steps",
        "native x: video_decoding took 1.5 s",
        "native x: done in 6.0 s",
    ]


def test_a_long_stage_says_its_steps_now_and_then_and_the_time_left() -> None:
    assert STEPS_EVERY_S == 15.0
    steps = [(10.0 + 6.0 * index, "step", (index, 8)) for index in range(1, 9)]
    said = lines_of([(10.0, "stage", ("denoising",)), *steps])
    assert said[2:] == [  # 6 s a step: the third is the first after 15 s
        "native x: denoising, step 3 of 8, about 30 s left",
        "native x: denoising, step 6 of 8, about 12 s left",
    ]


def test_the_bar_keeps_no_total_of_the_steps_before() -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=120)
    with Progress(BarColumn(), module.StepsColumn(), console=console, auto_refresh=False) as drawn:
        bar = module.Bar("official x", drawn)
        bar.stage("denoising")
        bar.step(1, 4)
        (task,) = drawn.tasks
        assert (task.total, task.completed) == (4, 1) and "1/4 left " in module.StepsColumn().render(task).plain
        bar.stage("audio_decoding")
        (task,) = drawn.tasks
        assert task.total is None and module.StepsColumn().render(task).plain == ""
        assert task.description == "official x: audio_decoding"
        bar.end()
    assert isinstance(console.file, io.StringIO)
    printed = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", console.file.getvalue())
    stages = re.findall(r"official x: (\w+) (?:took|in) \d+\.\d s(, 1 step)?$", printed, re.MULTILINE)
    assert stages == [("starting", ""), ("denoising", ", 1 step"), ("audio_decoding", ""), ("done", "")]


def test_a_stage_is_told_when_it_works_and_once() -> None:
    told = Told()
    clock = Clock(torch.device("cpu"), told)
    clock.begin("denoising")
    clock.begin("video_decoding", told=False)  # its decoder is loaded
    clock.begin("audio_decoding")
    clock.begin("audio_decoding")  # the vocoder
    clock.begin("video_decoding")
    clock.end()
    assert told.stages == ["denoising", "audio_decoding", "video_decoding"]
    assert set(clock.stage_s) == set(told.stages)


def test_advice_of_libraries_does_not_come_between(tmp_path: Path) -> None:

    script = tmp_path / "advice.py"
    script.write_text(
        "import warnings, os\nfrom parity.cli.verb import verb\n"
        "@verb\ndef advised():\n    warnings.warn('use another', FutureWarning)\n"
        "    warnings.warn('look', UserWarning)\n"
        "    print(os.environ['TRANSFORMERS_VERBOSITY'])\n"
        "try:\n    advised()\nexcept BaseException as ended:\n    print(type(ended).__name__)\n"
    )
    for debug, heard in (("", False), ("1", True)):
        environment = {"PYTHONPATH": str(Path(__file__).parents[3]), "PARITY_DEBUG": debug, "PATH": ""}
        environment |= {"TRANSFORMERS_VERBOSITY": "info"} if debug else {}
        done = subprocess.run(
            [sys.executable, str(script)], env=environment, capture_output=True, text=True, check=True
        )
        assert ("use another" in done.stderr) is heard and "look" in done.stderr
        assert re.match("info" if debug else "error", done.stdout)
