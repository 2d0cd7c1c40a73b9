"""`parity suite`: goldens of releases that are not installed, isolation, and what becomes of it in resumed calls."""

import json
import os
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch
from typer.testing import CliRunner

from parity.cli.app import app
from parity.defects.catalogue import CATALOGUE
from parity.defects.defect import Reach, edited, present
from parity.runs import golden
from parity.runs.folder import RUN_FILE, read_run
from parity.suite.place import MARKER
from runners.ltx23.transformer import Transformer
from runners.official.files import package_root
from runners.weights import WeightsFolder

pytestmark = pytest.mark.slow


def invoke(*arguments: object) -> tuple[int, str]:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    return result.exit_code, result.output


@pytest.fixture(scope="module")
def recorded(
    tmp_path_factory: pytest.TempPathFactory, micro_case_text: str, micro_weights: WeightsFolder
) -> Iterator[Path]:
    """A checkout whose micro case has a golden of 1.1.2, made by native, which has its bits."""
    threads = torch.get_num_threads()
    base = tmp_path_factory.mktemp("recorded")
    folder = base / "golden" / "micro"
    folder.mkdir(parents=True)
    text = micro_case_text.replace("[request]", 'reference = "1.1.2"\n[request]', 1)
    (folder / "case.toml").write_text(text.replace("inference_steps = 2", "inference_steps = 1"))
    arguments = ("--case", "micro", "--weights", micro_weights.folder, "--taps", "*", "--threads", 1, "--quiet")
    with patch.dict(os.environ, {"PARITY_ROOT": str(base)}):
        assert invoke("run", "--runner", "native", *arguments, "--out", base / "made")[0] == 0
        document = json.loads((base / "made" / RUN_FILE).read_text())
        (base / "made" / RUN_FILE).write_text(json.dumps({**document, "runner": "official"}))
        golden.bless(read_run(base / "made"), "for this test")
    yield base
    torch.set_num_threads(threads)


@pytest.fixture
def root(recorded: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of that checkout of a test's own."""
    shutil.copytree(recorded, tmp_path, dirs_exist_ok=True)
    monkeypatch.setenv("PARITY_ROOT", str(tmp_path))
    return tmp_path


def test_native_is_held_to_the_golden_alone_and_it_is_said(root: Path, micro_weights: WeightsFolder) -> None:
    arguments = ("suite", "--case", "micro", "--weights", micro_weights.folder, "--taps", "*", "--threads", 1)
    code, said = invoke(*arguments, "--out", root / "runs", "--report", root / "report", "--golden", "--quiet")
    assert code == 0, said
    assert "official 1.1.2 is not installed, its golden stands for it" in said and "VERDICT: PARITY" in said
    [line] = json.loads((root / "report" / "suite.json").read_text())["lines"]
    assert line["what"] == "native against golden" and line["verdict"]["profile"] == "exact"
    assert not (root / "runs" / "micro" / "official").exists()
    code, said = invoke(*arguments, "--out", root / "live", "--quiet")  # without the golden there is nothing
    assert code == 2 and "does not run reference release '1.1.2'" in said


def test_equal_bits_from_another_environment_are_parity_whatever_limits_were_measured_where(
    root: Path, micro_weights: WeightsFolder
) -> None:
    record = root / "made" / RUN_FILE
    document = json.loads(record.read_text())
    document["environment"]["torch"] += "+another.build"
    record.write_text(json.dumps(document))
    golden.bless(read_run(root / "made"), "made elsewhere")
    shutil.copytree(Path(__file__).parents[3] / "thresholds", root / "thresholds")
    arguments = ("suite", "--case", "micro", "--weights", micro_weights.folder, "--taps", "*", "--threads", 1)
    code, said = invoke(*arguments, "--out", root / "runs", "--report", root / "report", "--golden", "--quiet")
    assert "environment differs: torch: " in said and "+another.build against" in said
    assert code == 0 and "VERDICT: PARITY" in said
    [line] = json.loads((root / "report" / "suite.json").read_text())["lines"]
    assert line["taps"]["bit_equal"] and line["verdict"]["profile"] == "exact"


def test_a_golden_of_other_weights_is_named_before_anything_is_run(root: Path, tiny_weights: WeightsFolder) -> None:
    arguments = ("suite", "--case", "micro", "--weights", tiny_weights.folder, "--threads", 1, "--quiet")
    code, said = invoke(*arguments, "--out", root / "runs", "--golden")
    assert code == 2 and "The golden of 'micro' was recorded with weights" in said
    assert tiny_weights.hash[:12] in said and "leave --golden out" in said.replace("\n", " ")
    assert not (root / "runs").exists()


@pytest.fixture
def live(tmp_path: Path, micro_case_text: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkout whose micro case has three steps, a 1.0.0 reference and no golden."""
    folder = tmp_path / "golden" / "micro"
    folder.mkdir(parents=True)
    (folder / "case.toml").write_text(micro_case_text.replace("inference_steps = 2", "inference_steps = 3"))
    monkeypatch.setenv("PARITY_ROOT", str(tmp_path))
    return tmp_path


def suite(root: Path, weights: WeightsFolder, *more: object) -> tuple[int, str]:
    arguments = ("--weights", weights.folder, "--taps", "*", "--out", root / "runs", "--report", root / "report")
    return invoke("suite", "--case", "micro", *arguments, "--resume", "--quiet", *more)


def lines(root: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((root / "report" / "suite.json").read_text())["lines"]
    return found


def test_isolation_is_part_of_the_verdict_and_kept_when_the_call_goes_on(
    live: Path, micro_weights: WeightsFolder
) -> None:
    chosen = ("--isolate", "micro", "--isolate-steps", "2")
    assert suite(live, micro_weights)[0] == 0
    [line] = lines(live)
    assert line["isolated"] is None
    code, said = suite(live, micro_weights, *chosen, "--minutes", "0")  # the runs are there, and no time is left
    assert code == 2 and "not run yet: micro/isolation" in said
    code, said = suite(live, micro_weights, *chosen)
    [line] = lines(live)
    assert code == 0, said
    assert line["isolated"]["steps"] == [0, 1, 2] and line["isolated"]["differing"] == 0
    places = line["isolated"]["places"]
    judged = {row["metric"] for row in line["verdict"]["rows"]}
    assert places > 100 and "isolated.block.video.ff" in judged
    code, said = suite(live, micro_weights, *chosen, "--minutes", "0")
    assert code == 0 and said.count("kept") == 3
    assert suite(live, micro_weights, "--isolate", "micro", "--minutes", "0")[0] == 0  # fewer steps are in there
    path = live / "runs" / "micro" / "native_isolated.json"
    path.write_text(path.read_text()[:-9])  # stopped half-way, by a program that is not ours
    assert "not run yet: micro/isolation" in suite(live, micro_weights, *chosen, "--minutes", "0")[1]


def _scale_one_branch(model: Transformer) -> None:
    branch: Any = model.transformer_blocks[1].ff
    branch.register_forward_hook(lambda _module, _inputs, output: output * 1.01)


def test_a_defect_in_one_block_is_named_by_one_command(live: Path, micro_weights: WeightsFolder) -> None:
    assert suite(live, micro_weights)[0] == 0  # the official run, which the next calls keep
    shutil.rmtree(live / "runs" / "micro" / "native")
    with edited(Transformer, _scale_one_branch)(Reach()):
        code, said = suite(live, micro_weights, "--isolate", "micro")
    [line] = lines(live)
    assert code == 1 and line["isolated"]["origins"][0] == "denoise/000/cond/block/01/video/ff"
    begins = re.search(r"an error begins at denoise/000/cond/block/01/video/ff \((\d\.\d+)", said)
    assert begins is not None and abs(float(begins[1]) - 0.01) < 2e-4  # 1 %, as far as bf16 holds it
    shutil.rmtree(live / "runs" / "micro" / "native")
    (live / "runs" / "micro" / "native_isolated.json").unlink()
    with present(next(one for one in CATALOGUE if one.id == "one_linear_scaled")):  # weights are one copy for both
        code, said = suite(live, micro_weights, "--isolate", "micro")
    assert code == 1 and "a change of weights in place does not show in isolation" in said


def test_a_checkout_runs_the_cases_of_its_release_in_its_own_interpreter_and_is_kept(
    live: Path, micro_weights: WeightsFolder, warm: Path
) -> None:
    checkout = ("--official-root", package_root(), "--runner-python", warm)
    code, said = suite(live, micro_weights, *checkout)
    assert code == 0, said
    official, native = (read_run(live / "runs" / "micro" / name).manifest for name in ("official", "native"))
    assert official.details["in_child_process"] is True and "in_child_process" not in native.details
    assert lines(live)[0]["what"] == "native against official"
    code, said = suite(live, micro_weights, *checkout, "--minutes", "0")
    assert code == 0 and said.count("kept") == 2
    path = live / "runs" / "micro" / "official" / RUN_FILE
    document = json.loads(path.read_text())
    document["environment"]["transformers"] = "5.8.0"  # the interpreter had others then
    path.write_text(json.dumps(document))
    code, said = suite(live, micro_weights, *checkout, "--minutes", "0")
    assert code == 2 and "not run yet: micro/official" in said


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        (("--runner-python", sys.executable), "names; name that, too"),
        (("--official-root", package_root(), "--runner-python", "/bin/true"), "left no result.json"),
    ],
)
def test_an_interpreter_that_runs_nothing_is_refused(
    more: tuple[object, ...], sentence: str, live: Path, micro_weights: WeightsFolder
) -> None:
    code, said = suite(live, micro_weights, *more)
    assert code == 2 and sentence in said and not list(live.glob(f"runs/**/{RUN_FILE}"))


def test_isolating_a_case_of_a_release_that_is_not_installed_is_refused(
    root: Path, micro_weights: WeightsFolder
) -> None:
    code, said = suite(root, micro_weights, "--golden", "--isolate", "micro")
    assert code == 2 and "of a release that is not installed" in said and not (root / "runs").exists()


def test_steps_to_isolate_are_asked_of_cases_that_can_be_isolated(root: Path, micro_weights: WeightsFolder) -> None:
    said = suite(root, micro_weights, "--golden", "--isolate-steps", "15")[1]  # its release is not installed
    assert "VERDICT" in said and "steps from 0" not in said


def test_isolating_what_is_not_run_is_refused_before_anything_runs(live: Path, micro_weights: WeightsFolder) -> None:
    code, said = suite(live, micro_weights, "--isolate", "micro", "--isolate-steps", "3")
    assert code == 2 and "steps from 0 to 2" in said
    other = live / "golden" / "other"
    other.mkdir()
    text = (live / "golden" / "micro" / "case.toml").read_text()
    (other / "case.toml").write_text(text.replace('id = "micro"', 'id = "other"'))
    code, said = suite(live, micro_weights, "--isolate", "other")
    assert code == 2 and "no --case names" in said and not (live / "runs").exists()


def test_a_suite_owns_its_folder_and_says_so_but_takes_no_run_that_it_did_not_make(
    live: Path, micro_weights: WeightsFolder
) -> None:
    arguments = ("--case", "micro", "--weights", micro_weights.folder, "--threads", 1, "--quiet")
    mine = live / "runs" / "micro" / "native"
    assert invoke("run", "--runner", "native", *arguments, "--out", mine)[0] == 0
    record = (mine / RUN_FILE).read_bytes()
    code, said = invoke("suite", *arguments, "--out", live / "runs")
    assert code == 2 and "say --replace" in said.replace("\n", " ") and (mine / RUN_FILE).read_bytes() == record
    assert not (live / "runs" / MARKER).exists() and not (live / "runs" / "micro" / "official").exists()
    assert invoke("suite", *arguments, "--out", live / "runs", "--replace")[0] == 0
    assert "belongs to `parity suite`" in (live / "runs" / MARKER).read_text()
    made = (mine / RUN_FILE).read_bytes()
    assert invoke("suite", *arguments, "--out", live / "runs")[0] == 0, "its own folder needs no more words"
    assert record != made != (mine / RUN_FILE).read_bytes()


@pytest.mark.parametrize("place", ["micro", "micro/official", "micro/native", MARKER])
def test_a_link_in_a_suites_folder_is_refused_before_anything_is_run(
    place: str, live: Path, micro_weights: WeightsFolder
) -> None:
    theirs = live / "theirs"
    theirs.mkdir()
    (live / "runs" / place).parent.mkdir(parents=True)
    (live / "runs" / place).symlink_to(theirs)
    code, said = suite(live, micro_weights)
    assert code == 2 and "symbolic link" in said.replace("\n", " ")
    assert list(theirs.iterdir()) == [] and not (live / "report").exists()
