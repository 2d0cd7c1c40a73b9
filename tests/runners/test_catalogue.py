"""Runners by name and from files: a stranger cannot pass for one of ours, and what it raises is said to be its own."""

import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from parity.runs.child_main import MARK
from runners.catalogue import CHILD, is_known, open_runner, require_own_name, runner_and_tier
from runners.diffusers.runner import DiffusersRunner
from runners.errors import MediaError, RunnerError
from runners.names import NAMES, TAPS_OWED
from runners.native.runner import NativeRunner
from runners.protocol import RunOptions
from runners.sglang.runner import SGLangRunner
from runners.weights import WeightsFolder

CPU = RunOptions(device=torch.device("cpu"))


def opened(folder: Path, text: str, weights: WeightsFolder) -> Any:
    """The class Engine of a file with this text, made."""
    (folder / "engine.py").write_text(text)
    return open_runner(f"{folder / 'engine.py'}:Engine", weights, CPU)


@pytest.mark.parametrize("name", ["grey", "a", "0", "my_engine-2.1", "x" * 40, "_a", ".a"])
def test_a_name_of_its_own_is_taken(name: str, micro_weights: WeightsFolder, tmp_path: Path) -> None:
    text = f"class Engine:\n    name = {name!r}\n    def __init__(self, weights, options): pass\n"
    assert opened(tmp_path, text, micro_weights).name == name


@pytest.mark.parametrize(
    "name", [*NAMES, "Native", "", "x" * 41, "a b", "a/b", "é", "..", "-", "a\n", "\x1b[31m", 7, ["a"]]
)
def test_another_name_is_refused(name: object, micro_weights: WeightsFolder, tmp_path: Path) -> None:
    text = f"class Engine:\n    name = {name!r}\n    def __init__(self, weights, options): pass\n"
    with pytest.raises(RunnerError, match=r"engine\.py:Engine calls itself"):
        opened(tmp_path, text, micro_weights)
    with pytest.raises(RunnerError, match="calls itself"):
        require_own_name(name, "x")


def test_a_runner_without_a_name_or_with_the_one_it_inherits_is_refused(
    micro_weights: WeightsFolder, tmp_path: Path
) -> None:
    nameless = opened(tmp_path, "class Engine:\n    def __init__(self, weights, options): pass\n", micro_weights)
    assert not is_known(nameless)
    with pytest.raises(RunnerError, match="calls itself 'None'"):
        require_own_name(getattr(nameless, "name", None), "x")
    inherits = "from runners.native.runner import NativeRunner\nclass Engine(NativeRunner): pass\n"
    with pytest.raises(RunnerError, match=r"calls itself 'native'.*are taken"):
        opened(tmp_path, inherits, micro_weights)


def test_modules_beside_a_runners_file_can_be_imported_and_take_no_librarys_place(
    micro_weights: WeightsFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "path", [*sys.path])
    (tmp_path / "beside_it").mkdir()
    (tmp_path / "beside_it/__init__.py").write_text("WORD = 'beside'\n")
    (tmp_path / "json.py").write_text("raise RuntimeError('this is no library')\n")
    text = "import json\nimport beside_it\nclass Engine:\n    name = beside_it.WORD\n"
    text += "    def __init__(self, *_): json.dumps(0)\n"
    assert opened(tmp_path, text, micro_weights).name == "beside"


@pytest.mark.parametrize(("child", "said"), [(False, "with --runner-python"), (True, "Install it there")])
def test_who_gave_an_interpreter_is_not_told_to_give_one(
    micro_weights: WeightsFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, child: bool, said: str
) -> None:
    monkeypatch.delenv(CHILD, raising=False)
    if child:
        monkeypatch.setenv(MARK, "of a test")  # as the parent sets it
    with pytest.raises(RunnerError, match="needs a module") as caught:
        opened(tmp_path, "import no_such_library\n", micro_weights)
    assert said in str(caught.value) and ("--runner-python" in str(caught.value)) is not child


def test_only_ours_are_known(micro_weights: WeightsFolder, tmp_path: Path) -> None:
    for name in NAMES:
        assert is_known(open_runner(name, micro_weights, CPU))
    class_of_file = "class Engine:\n    name = 'x'\n    def __init__(self, weights, options): self.weights = weights\n"
    engine = opened(tmp_path, class_of_file, micro_weights)
    engine.name = "native"  # after it was looked at
    assert not is_known(engine)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("raise KeyError('a\\x1bb')", r"Runner '.*engine\.py:Engine' failed at engine\.py:1: KeyError: 'a\\x1bb'"),
        ("import no_such_library", r"needs a module that .* cannot import \(No module named 'no_such_library'\)"),
        ("def broken(:", "failed at .*: SyntaxError: "),
        ("Engine = 7", "has no class 'Engine'"),
        (
            "class Engine:\n    def __init__(self, weights, options):\n        input('run code? ')",
            "failed at engine.py:3: EOFError",
        ),
        ("class Engine: pass", "failed at catalogue.py:.*TypeError"),
    ],
)
def test_what_a_file_raises_is_its_own(text: str, said: str, micro_weights: WeightsFolder, tmp_path: Path) -> None:
    with pytest.raises(RunnerError, match=said):
        opened(tmp_path, text, micro_weights)


def test_an_error_of_the_tree_stays_what_it_is(micro_weights: WeightsFolder, tmp_path: Path) -> None:
    text = "from runners.errors import MediaError\nraise MediaError('no film')\n"
    with pytest.raises(MediaError, match=r"^no film$"):
        opened(tmp_path, text, micro_weights)


def test_every_known_runner_owes_what_its_class_offers() -> None:
    assert tuple(TAPS_OWED) == NAMES
    for name, runner in (("native", NativeRunner), ("diffusers", DiffusersRunner), ("sglang", SGLangRunner)):
        assert TAPS_OWED[name] == " ".join(runner.capabilities.taps)


def test_a_runner_may_be_named_with_its_tier_and_a_file_is_a_name() -> None:
    assert runner_and_tier("native") == ("native", "exact")
    assert runner_and_tier("native:fast") == ("native", "fast")
    assert runner_and_tier("native:fp8") == ("native", "fp8")
    assert runner_and_tier("engines/mine.py:fast") == ("engines/mine.py:fast", "exact")
    assert runner_and_tier("mine") == ("mine", "exact")
    for wrong in ("native:", "native:quick", "official:Fast"):
        with pytest.raises(RunnerError, match=r"take NAME\[:TIER\], a tier of exact, fast, fp8"):
            runner_and_tier(wrong)
