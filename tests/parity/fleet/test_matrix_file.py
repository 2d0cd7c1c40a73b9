"""The file of a matrix: what it says, and what it may not."""

from pathlib import Path
from typing import Any

import pytest

from parity.fleet.matrix_file import MatrixFile, load_matrix, parse_matrix, path_on_boxes, runners_there
from runners.errors import ConfigError

TEXT = """
name = "nightly"
weights = "forge:tiny:0"
cases = ["tiny_*"]
[[devices]]
name = "h200"
device = "cuda"
num_cpus = 8
accelerator_type = "H200"
[[devices]]
name = "cpu"
num_cpus = 2
[[runners]]
runner = "native:fast"
[[runners]]
runner = "sglang"
name = "sglang, two GPUs"
python = "$ENGINE_PYTHON"
num_gpus = 2
options = { quality = "lossless" }
"""
GOOD = TEXT.replace("sglang, two GPUs", "sglang")


def test_what_a_file_says() -> None:
    found = parse_matrix(GOOD, "here")
    gpu, cpu = found.devices
    assert (gpu.gpus, gpu.computing_threads, cpu.gpus, cpu.computing_threads) == (1, 8, 0, 1)
    assert [one.label for one in found.runners] == ["native:fast", "sglang"]
    assert (found.repeats, found.isolate, found.perf, found.taps, found.reports) == (1, False, False, "*", "all")


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("cases", "casess", "unknown field `casess`|missing required field `cases`"),
        ('["tiny_*"]', "[]", "has no cases"),
        ('"nightly"', '"../x"', "name of a matrix"),
        ('name = "cpu"', 'name = "h200"', "devices has 'h200' twice"),
        ("num_cpus = 2", "num_cpus = 0", "num_cpus = 0; wanted 1"),
        ("num_cpus = 2", "num_cpus = 2\nnum_gpus = 1", "is cpu and has num_gpus = 1; wanted 0 to 0"),
        ("num_cpus = 8", "num_gpus = 0", "is cuda and has num_gpus = 0; wanted 1"),
        ("num_cpus = 2", "threads = 2", "threads = 2; wanted 1 to its num_cpus, 1"),
        ("num_cpus = 2", "memory_gib = -1.0", "memory_gib = -1.0"),
        ("native:fast", "native:quick", "has no tier 'quick'"),
        ("native:fast", "nativ", "Unknown runner 'nativ'"),
        ('name = "sglang"', 'name = "a/b"', "'a/b'; wanted letters"),
        ('python = "$ENGINE_PYTHON"', "", "name its interpreter"),
        ("cases", "repeats = 0\ncases", "repeats is 0"),
        ("cases", "limit_minutes = 0.0\ncases", "limit_minutes is 0.0"),
        ("cases", 'weights_hash = "12"\ncases', "wanted 64 hex digits"),
        ("cases", 'reports = "some"\ncases', "Invalid enum value 'some'"),
        ("cases", "= 1", "not valid TOML"),
    ],
)
def test_what_a_file_may_not_say(old: str, new: str, said: str) -> None:
    assert old in GOOD
    with pytest.raises(ConfigError, match=said):
        parse_matrix(GOOD.replace(old, new, 1), "here")


def test_a_name_of_signs_that_no_file_has_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text(TEXT)
    with pytest.raises(ConfigError, match="two GPUs'; wanted letters"):
        load_matrix(tmp_path / "a.toml")
    with pytest.raises(ConfigError, match="is no file that can be read"):
        load_matrix(tmp_path / "none.toml")


def test_an_engine_whose_interpreter_is_a_variable_that_is_not_set_is_left_out(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    found: MatrixFile = parse_matrix(GOOD, "here")
    monkeypatch.delenv("ENGINE_PYTHON", raising=False)
    there, left_out = runners_there(found)
    assert ([one.label for one in there], [one.label for one in left_out]) == (["native:fast"], ["sglang"])
    monkeypatch.setenv("ENGINE_PYTHON", "/opt/engine/python")
    there, left_out = runners_there(found)
    assert len(there) == 2 and not left_out
    paths: list[Any] = [path_on_boxes(one, tmp_path) for one in ("$ENGINE_PYTHON", "venv/python", "")]
    assert paths == ["/opt/engine/python", str(tmp_path / "venv/python"), ""]
