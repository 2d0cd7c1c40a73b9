"""The wheel: what it holds, and that an empty folder with nothing but it is enough for the main job and for judging.

It is built from a copy of the tree and unpacked into a folder, from which processes of their own import it. What a verb
must not need is forbidden to be imported there.
"""

import json
import os
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from shutil import copytree, ignore_patterns
from typing import Any

import pytest

from parity.runs.golden import find_case

ROOT = Path(__file__).parents[1]
PARTS = ("parity", "runners", "golden", "thresholds", "docs/measurements")
LARGEST_BYTES = 16_000_000
FORBID = """
import sys
class Forbid:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {names!r}:
            raise ModuleNotFoundError(name + " is not installed here", name=name)
sys.meta_path.insert(0, Forbid())
"""
SEVERAL = """
import json, sys
from typer.testing import CliRunner
from parity.cli.app import app
for line in json.loads(sys.argv[1]):
    ended = CliRunner().invoke(app, line)
    print(json.dumps([ended.exit_code, ended.stdout, ended.stderr]))
"""
RUNS_A_MODEL = (
    "transformers",
    "diffusers",
    "accelerate",
    "peft",
    "sentencepiece",
    "ltx_core",
    "ltx_pipelines",
    "pytest",
)

pytestmark = [pytest.mark.slow, pytest.mark.package]


def named_packages() -> set[str]:
    found = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    return set(found["tool"]["setuptools"]["packages"])


def in_wheel(
    *arguments: object, site: Path, here: Path, forbidden: tuple[str, ...] = (), module: str = "parity", **more: str
) -> "subprocess.CompletedProcess[str]":
    """`parity` of the unpacked wheel in a folder, another module beside it, or several verbs; without the forbidden."""
    blocked = here.parent / f"blocked-{len(forbidden)}"
    blocked.mkdir(exist_ok=True)
    (blocked / "sitecustomize.py").write_text(FORBID.format(names=forbidden))
    kept: Mapping[str, str] = {name: text for name, text in os.environ.items() if name != "PARITY_ROOT"}
    environment = {**kept, "PYTHONPATH": f"{blocked}{os.pathsep}{site}", **more}
    command = [sys.executable, *(("-c", SEVERAL) if module == "" else ("-m", module)), *map(str, arguments)]
    return subprocess.run(command, cwd=here, env=environment, capture_output=True, text=True, check=False, timeout=300)


def called_in_wheel(*lines: Sequence[str], **where: Any) -> list[tuple[int, str, str]]:
    """Exit code, output and errors of several verbs of the unpacked wheel, in one process that imports all once."""
    done = in_wheel(json.dumps(lines), module="", **where)
    assert done.returncode == 0, done
    return [(code, out, err) for code, out, err in map(json.loads, done.stdout.splitlines())]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("dist")
    for part in PARTS:
        copytree(ROOT / part, source / part, ignore=ignore_patterns("__pycache__", ".*", "build"))
    for name in ("pyproject.toml", "README.md", "LICENSE", "NOTICE"):
        (source / name).write_bytes((ROOT / name).read_bytes())
    alone = [] if int(metadata.version("setuptools").partition(".")[0]) < 77 else ["--no-build-isolation"]
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", *alone, "--wheel-dir", str(out), "."]
    subprocess.run(command, cwd=source, check=True, timeout=500)
    (made,) = out.glob("*.whl")
    return made


@pytest.fixture(scope="module")
def site(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    with zipfile.ZipFile(wheel) as packed:
        packed.extractall(folder)
    return folder


@pytest.fixture(scope="module")
def demo(site: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty folder in which `parity demo` was typed."""
    here = tmp_path_factory.mktemp("user") / "empty"
    here.mkdir()
    done = in_wheel("demo", "--quiet", site=site, here=here)
    assert done.returncode == 0, done
    assert "VERDICT: PARITY" in done.stdout.splitlines() and done.stdout.count("bit-iden") >= 8
    return here


def test_every_package_of_the_tree_is_named() -> None:
    there = {str(path.parent.relative_to(ROOT)).replace("/", ".") for path in (ROOT / "parity").rglob("__init__.py")}
    there |= {str(path.parent.relative_to(ROOT)).replace("/", ".") for path in (ROOT / "runners").rglob("__init__.py")}
    assert {name for name in named_packages() if ".shipped." not in name} == there


def test_every_file_of_both_packages_is_in_the_wheel(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    there = {
        str(path.relative_to(ROOT))
        for package in ("parity", "runners")
        for path in (ROOT / package).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert there - names == set()


def test_the_wheel_holds_what_is_read_once_and_no_more(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    shipped = {name.removeprefix("parity/shipped/") for name in names if name.startswith("parity/shipped/")}
    for name in shipped:
        assert zipfile.ZipFile(wheel).read(f"parity/shipped/{name}") == (ROOT / name).read_bytes()
    cases = {path.parent.name for path in (ROOT / "golden").glob("*/case.toml")}
    tiny = {name for name in cases if "tiny" in name}
    wanted = {str(path.relative_to(ROOT)) for name in tiny for path in (ROOT / "golden" / name).rglob("*.*")}
    wanted |= {f"golden/{name}/case.toml" for name in cases - tiny}  # a golden of full size stays in the checkout
    wanted |= {
        str(case.image_path(image).relative_to(ROOT)) for case in map(find_case, cases) for image in case.request.images
    }
    assert {name for name in shipped if name.startswith("golden/")} == wanted
    there = {str(path.relative_to(ROOT)) for path in (ROOT / "thresholds").rglob("*.json")}
    assert there == {name for name in shipped if name.startswith("thresholds/")}
    assert wheel.stat().st_size < LARGEST_BYTES


def test_two_runs_are_judged_without_anything_that_runs_a_model(site: Path, demo: Path) -> None:
    official, native = (f"parity-demo/runs/tiny_ti2v/{name}" for name in ("official", "native"))
    against = (native, "--against", official)
    verbs = ("diff", *against), ("explain", *against), ("report", *against, "--out", "page.html")
    golden = ("gate", official, "--against", "golden")
    *ended, judged = called_in_wheel(*verbs, golden, site=site, here=demo, forbidden=RUNS_A_MODEL)
    assert [(code, said) for code, _, said in ended] == [(0, "")] * len(verbs), ended
    assert (demo / "page.html").stat().st_size > 100_000
    assert judged[0] in (0, 2) and "VERDICT" in judged[1], judged  # elsewhere than the golden's machine
    (demo / "test_engine.py").write_text(
        f"def test_engine(parity_gate):\n    parity_gate({native!r}, against={official!r})\n"
    )
    plugin = ("-p", "no:parity", "-p", "parity.pytest_plugin", "-p", "no:cacheprovider", "test_engine.py")
    done = in_wheel(*plugin, site=site, here=demo, module="pytest", forbidden=RUNS_A_MODEL[:-1])
    assert done.returncode == 0 and "1 passed" in done.stdout, done


def test_a_verb_that_runs_a_model_says_what_to_install(site: Path, demo: Path) -> None:
    done = in_wheel("demo", "--out", "again", site=site, here=demo, forbidden=RUNS_A_MODEL)
    assert done.returncode == 2 and "pip install 'ltx-parity[official]'" in done.stderr, done
    assert not (demo / "again").exists()


def test_own_cases_lie_in_the_users_project(site: Path, demo: Path) -> None:
    official = "parity-demo/runs/tiny_ti2v/official"
    bless = ("bless", official, "--reason", "ours from now on")
    init = ("init", "--case", "tiny_ti2v")
    refused, made, done = called_in_wheel(bless, init, bless, site=site, here=demo)
    assert refused[0] == 2 and "parity init" in refused[2], refused
    assert made[0] == 0, made
    assert done[0] == 0 and (demo / "parity/golden/tiny_ti2v/golden.json").is_file(), done
    below = demo / "tests"
    below.mkdir()
    judged = in_wheel("gate", "../parity-demo/runs/tiny_ti2v/native", site=site, here=below)
    assert judged.returncode == 0, judged
    assert f"limits and goldens: those of {demo / 'parity'}" in judged.stdout


TYPOS = [
    ["gaet"],
    ["run", "--case", "tiny_tiv"],
    ["run", "--runner", "native", "--case", "tiny_ti2v", "--weights", "w", "--out", "o", "--set", "request.sed=3"],
]


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], *TYPOS])
def test_help_and_typos_need_nothing_that_computes(site: Path, demo: Path, arguments: list[str]) -> None:
    forbidden = ("torch", "numpy", "av", "PIL", *RUNS_A_MODEL)
    done = in_wheel(*arguments, site=site, here=demo, forbidden=forbidden)
    assert done.returncode == (0 if arguments[0].startswith("--") else 2), done
    assert "is not installed here" not in done.stderr
    assert len(arguments) < 3 or "Did you mean" in done.stderr


def test_an_engine_in_its_own_interpreter_gets_no_package_of_the_harness_environment(site: Path, demo: Path) -> None:
    (site / "safetensors").mkdir()
    (site / "safetensors" / "__init__.py").write_text("raise ImportError('the harness has another safetensors')")
    try:
        code = (
            "import runpy, sys; begin = runpy.run_path(sys.argv[1])['import_ours']; "
            "del sys.modules['importlib.machinery']; begin(); "  # of which a bare interpreter has imported nothing
            "import runners.case, parity, safetensors; "
            "print(parity.__file__, runners.__file__)"
        )
        program = site / "parity" / "runs" / "child_main.py"
        environment = {name: text for name, text in os.environ.items() if name != "PYTHONPATH"}
        command = [sys.executable, "-c", code, str(program)]
        done = subprocess.run(command, cwd=demo, env=environment, capture_output=True, text=True, check=False)
        assert done.stdout.split() == [str(site / name / "__init__.py") for name in ("parity", "runners")], done
    finally:
        (site / "safetensors" / "__init__.py").unlink()
        (site / "safetensors").rmdir()
