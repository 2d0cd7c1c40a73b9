"""`parity matrix` on the command line: whole matrices of the micro model, on both executors."""

import json
import os
import re
import time
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from parity.cli.app import app
from parity.fleet.matrix_file import parse_matrix
from runners.weights import WeightsFolder

ROOT = Path(__file__).parents[3]
MATRIX = """
name = "small"
weights = "{weights}"
cases = ["case.toml"]
reports = "failing"
[[devices]]
name = "cpu"
[[runners]]
runner = "native"
"""
GREY = '[[runners]]\nrunner = "grey.py:Grey"\nname = "grey"\n'


def invoke(*arguments: object) -> tuple[int, str]:
    done = CliRunner().invoke(app, ["matrix", *map(str, arguments)])
    return done.exit_code, " ".join(done.output.split())


@pytest.fixture
def folder(tmp_path: Path, micro_weights: WeightsFolder, micro_case_text: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PARITY_STORE", str(tmp_path / "store"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("PYTHONPATH", str(ROOT), prepend=os.pathsep)  # of Ray's workers
    (tmp_path / "case.toml").write_text(micro_case_text)
    (tmp_path / "small.toml").write_text(MATRIX.format(weights=micro_weights.folder))
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs/runners.md").read_text(), re.DOTALL)
    (tmp_path / "grey.py").write_text(next(block for block in blocks if "class Grey" in block))
    return tmp_path


@pytest.mark.sweep
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::FutureWarning")
def test_a_small_matrix_on_both_executors(folder: Path) -> None:
    file = folder / "small.toml"
    code, said = invoke(file, "--out", folder / "here")
    assert code == 0 and "VERDICT: PARITY (1 rows: 1 at parity)" in said, said
    start_s = time.monotonic()
    assert invoke(file, "--out", folder / "here", "--quiet")[0] == 0
    assert time.monotonic() - start_s < 3, "everything has its result"
    pytest.importorskip("ray")
    file.write_text(file.read_text() + GREY)
    code, said = invoke(file, "--out", folder / "ray", "--executor", "ray", "--json", "--quiet")
    assert code == 1, said
    found: dict[str, Any] = json.loads((folder / "ray" / "matrix.json").read_text())
    [row] = found["rows"]
    assert row["reference"]["reused"], "the official run of this environment is in the store"
    native, grey = row["cells"]
    assert (native["code"], grey["code"], grey["since"][:4].isdecimal()) == (0, 1, True)
    page = (folder / "ray" / "matrix.html").read_text()
    [link] = re.findall(r'<a href="([^"]*)"', page)
    assert (folder / "ray" / link).read_text().startswith("<!DOCTYPE html>")


def test_an_address_is_of_ray(folder: Path) -> None:
    code, said = invoke(folder / "small.toml", "--out", folder / "out", "--address", "ray://x:1")
    assert code == 2 and "say --executor ray" in said and not (folder / "out").exists()


@pytest.mark.parametrize(("old", "new"), [("cases", "casess"), ("[[devices]]", "[[device"), ("native", "nativ")])
def test_a_file_that_is_no_matrix_is_refused_before_anything(old: str, new: str, folder: Path) -> None:
    file = folder / "small.toml"
    file.write_text(file.read_text().replace(old, new, 1))
    code, said = invoke(file, "--out", folder / "out")
    assert code == 2 and said.startswith("error: ") and not (folder / "out").exists()


def test_somebody_elses_folder_is_left_alone(folder: Path) -> None:
    code, said = invoke(folder / "small.toml", "--out", folder)
    assert code == 2 and "is no folder of a matrix" in said


def test_the_files_that_the_project_shows_are_matrices() -> None:
    text = (ROOT / "docs/fleet.md").read_text()
    [shown] = re.findall(r"```toml\n(.*?)```", text, re.DOTALL)
    assert parse_matrix(shown, "docs/fleet.md").runners[1].num_gpus == 2
    keys = set(re.findall(r"^(\w+) =", shown, re.MULTILINE))
    forms = [parse_matrix(shown, ""), *parse_matrix(shown, "").devices, *parse_matrix(shown, "").runners]
    known = {name for form in forms for name in form.__struct_fields__}
    left_out = {"runners", "devices", "official", "weights_hash", "engine_root"}
    assert known - keys == left_out, "the page shows every key, or tells of it"
    for path in (ROOT / "matrix").glob("*.toml"):
        assert parse_matrix(path.read_text(), str(path)).name == path.stem
