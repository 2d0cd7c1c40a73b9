"""A checkout is what its files are: a known release by their hashes, or custom by commit and hash."""

import hashlib
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
import torch

from parity.runs.attention_kernels import ATTENTION_KERNELS
from parity.runs.child import ChildRunner
from parity.runs.execute import run_to_folder, writing_trace
from parity.runs.folder import Run, read_run
from parity.trace.file import read_trace
from runners.case import Case
from runners.catalogue import open_runner
from runners.clock import Quiet
from runners.errors import RunnerError
from runners.official.files import KNOWN_RELEASES, known_commit, known_hashes, official_code, package_root, total_sha256
from runners.official.lockstep import PipelineWatcher
from runners.official.runner import ADAPTERS, OfficialRunner, adapter_name, require_transformers
from runners.protocol import Runner, RunOptions
from runners.weights import WeightsFolder

pytestmark = pytest.mark.slow

BF16 = RunOptions(device=torch.device("cpu"))
COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """The installed release laid out as its repository is."""
    for package, folder in (("ltx_core", "ltx-core"), ("ltx_pipelines", "ltx-pipelines")):
        target = tmp_path / "LTX-2/packages" / folder / "src" / package
        shutil.copytree(package_root() / package, target, ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path / "LTX-2"


def test_a_release_is_recognised_wherever_it_lies(checkout: Path) -> None:
    installed, copied, flat = official_code(), official_code(checkout), official_code(package_root())
    assert [code.release for code in (installed, copied, flat)] == ["1.0.0"] * 3
    assert installed.sha256 == copied.sha256 == flat.sha256 == total_sha256(known_hashes("1.0.0"))
    assert copied.commit is None and not copied.installed
    assert set(copied.sources) == {checkout / f"packages/{name}/src" for name in ("ltx-core", "ltx-pipelines")}


def test_the_manifests_are_of_three_different_releases_and_each_has_an_adapter() -> None:
    totals = {total_sha256(known_hashes(release)) for release in KNOWN_RELEASES}
    assert len(totals) == 3 and ADAPTERS.keys() == set(KNOWN_RELEASES)
    assert (known_commit("1.0.0"), known_commit("custom")) == (None, None)
    assert (known_commit("1.1.2") or "").startswith("41d9243")
    assert (known_commit("1.2.0") or "").startswith("400fd31")


def test_one_hash_over_all_files_is_that_of_the_lines_of_sha256sum() -> None:
    lines = b"aa  a.py\nbb  b/c.py\n"
    assert total_sha256({"b/c.py": "bb", "a.py": "aa"}) == hashlib.sha256(lines).hexdigest()


@pytest.mark.parametrize("change", ["edited", "missing", "added", "shadowed", "prompt"])
def test_any_change_makes_it_custom(change: str, checkout: Path) -> None:
    core = checkout / "packages/ltx-core/src/ltx_core"
    before = official_code(checkout)
    if change == "edited":
        (core / "utils.py").write_bytes((core / "utils.py").read_bytes() + b"\n")
    elif change == "missing":
        (core / "utils.py").unlink()
    elif change == "added":
        (core / "extra.py").touch()
    elif change == "shadowed":  # would be imported in place of utils.py
        (core / "utils.abi3.so").touch()
    else:
        (next(core.rglob("*.txt"))).write_text("Be brief.")
    code = official_code(checkout)
    assert code.release == "custom" and code.sha256 != before.sha256
    assert code.details() == {"official_release": "custom", "official_sha256": code.sha256, "official_commit": None}


def test_caches_and_files_that_nothing_reads_do_not_count(checkout: Path) -> None:
    core = checkout / "packages/ltx-core/src/ltx_core"
    (core / "__pycache__").mkdir()
    (core / "__pycache__/utils.cpython-311.pyc").touch()
    (core / ".DS_Store").touch()
    assert official_code(checkout).release == "1.0.0"


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


@pytest.mark.parametrize(
    ("files", "commit"),
    [
        ({".git/HEAD": COMMIT}, COMMIT),
        ({".git/HEAD": "ref: refs/heads/main\n", ".git/refs/heads/main": COMMIT + "\n"}, COMMIT),
        ({".git/HEAD": "ref: refs/heads/main\n", ".git/packed-refs": f"# packed\n{COMMIT} refs/heads/main\n"}, COMMIT),
        ({".git": "gitdir: ../repo/wt\n", "../repo/wt/HEAD": COMMIT}, COMMIT),
        (
            {
                ".git": "gitdir: ../repo/wt\n",
                "../repo/wt/HEAD": "ref: refs/heads/b\n",
                "../repo/wt/commondir": "..",
                "../repo/refs/heads/b": COMMIT,
            },
            COMMIT,
        ),
        ({".git/HEAD": "ref: ../../../secret\n", "../../secret": COMMIT}, None),
        ({".git/HEAD": "not a commit"}, None),
        ({".git/HEAD": "ref: refs/heads/gone"}, None),
        ({}, None),
    ],
)
def test_the_commit_is_read_without_running_anything(files: dict[str, str], commit: str | None, checkout: Path) -> None:
    for name, text in files.items():
        write(checkout / name, text)
    assert official_code(checkout).commit == commit


def test_what_is_no_checkout_is_refused_with_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(RunnerError, match=r"no packages/ltx-core/src/ltx_core and no packages/ltx-pipelines/src/ltx_p"):
        official_code(tmp_path)


class Heard(Quiet):
    """Progress as it was told."""

    def __init__(self) -> None:
        self.stages: list[str] = []
        self.steps: list[tuple[int, int]] = []

    def stage(self, name: str) -> None:
        self.stages.append(name)

    def step(self, index: int, count: int) -> None:
        self.steps.append((index, count))


def test_an_unknown_one_runs_only_as_custom_in_a_child_says_which_it_was_and_has_the_bits_of_this_process(
    checkout: Path, micro_weights: WeightsFolder, micro_case: Callable[..., Case], tmp_path: Path
) -> None:
    utils = checkout / "packages/ltx-core/src/ltx_core/utils.py"
    utils.write_text(utils.read_text() + "\n# mine\n")
    write(checkout / ".git/HEAD", COMMIT)
    heard = Heard()
    child = ChildRunner(
        python=Path(sys.executable),
        name="official",
        weights=micro_weights,
        options=BF16,
        beside=tmp_path / "child",
        official_root=checkout,
        threads=torch.get_num_threads(),  # as many as here, for the same bits
    )

    def run(reference: str, runner: Runner, name: str) -> Run:
        change = {"request.images": [{"path": "astronaut.png"}], "request.num_inference_steps": 1}
        case = micro_case({**change, "reference": reference})
        run_to_folder(runner, case, micro_weights, BF16, tmp_path / name, heard, writing_trace("*", "sketch"))
        return read_run(tmp_path / name)

    for reference in ("1.0.0", "1.1.2"):
        with pytest.raises(RunnerError, match=f"does not run reference release '{reference}'; it runs custom"):
            run(reference, child, "child")
    there = run("custom", child, "child")
    assert "denoising" in heard.stages and heard.steps == [(1, 1)]
    here = run("1.0.0", OfficialRunner(micro_weights, BF16), "here")
    for name in ("video_frames", "audio_waveform", "video_latent", "audio_latent"):
        assert torch.equal(getattr(there.outputs(), name), getattr(here.outputs(), name)), name
    theirs, ours = read_trace(there.folder), read_trace(here.folder)
    assert list(theirs) == list(ours) and theirs.complete and theirs.pattern == ours.pattern and len(ours) > 90
    assert all(ours[name].same_bits(theirs[name]) for name in ours)
    for name in ("inputs", "weights_hash", "runner", "dtype", "sigmas", "environment"):
        assert getattr(there.manifest, name) == getattr(here.manifest, name), name
    assert there.manifest.stage_s.keys() == here.manifest.stage_s.keys() and len(there.manifest.step_s) == 1
    assert there.manifest.reference == "custom"
    assert there.manifest.details == here.manifest.details | {
        "in_child_process": True,
        "official_release": "custom",
        "official_sha256": official_code(checkout).sha256,
        "official_commit": COMMIT,
    }
    assert len(here.manifest.details[ATTENTION_KERNELS]) > 3
    assert {path.name for path in tmp_path.iterdir()} == {"LTX-2", "child", "here"}


def test_the_installed_release_is_never_custom(micro_weights: WeightsFolder, micro_case: Callable[..., Case]) -> None:
    with OfficialRunner(micro_weights, BF16) as runner, pytest.raises(RunnerError, match=r"'custom'; it runs 1\.0\.0"):
        runner.run(micro_case({"reference": "custom"}), Quiet())


def test_two_official_codes_in_one_process_are_refused(checkout: Path, micro_weights: WeightsFolder) -> None:
    with OfficialRunner(micro_weights, BF16):
        import ltx_core  # noqa: F401
    runner = OfficialRunner(micro_weights, BF16, official_root=checkout)
    with pytest.raises(RunnerError, match=r"already imported ltx_core from .*--runner-python"):
        runner.__enter__()


@pytest.mark.parametrize(
    ("there", "release"),
    [(["model_ledger.py"], "1.0.0"), ([], "1.1.2"), (["model_paths.py"], "1.2.0")],
)
def test_custom_code_gets_the_adapter_of_the_generation_it_is_built_like(
    there: list[str], release: str, checkout: Path
) -> None:
    utils = checkout / "packages/ltx-pipelines/src/ltx_pipelines/utils"
    (utils / "model_ledger.py").unlink()
    for name in there:
        (utils / name).touch()
    assert adapter_name(official_code(checkout)) == ADAPTERS[release]


def test_code_that_cannot_be_watched_part_by_part_says_so(checkout: Path, micro_weights: WeightsFolder) -> None:
    watcher = cast(PipelineWatcher, object())
    assert OfficialRunner(micro_weights, BF16, official_root=checkout, watcher=watcher)
    (checkout / "packages/ltx-pipelines/src/ltx_pipelines/utils/model_ledger.py").unlink()
    with pytest.raises(RunnerError, match=r"built like 1\.0\.0 can be watched .* this is custom"):
        OfficialRunner(micro_weights, BF16, official_root=checkout, watcher=watcher)


@pytest.mark.parametrize(("present", "fits"), [("5.8.0", True), ("5.14.1", True), ("4.57.6", False), ("5.15.0", False)])
def test_the_release_that_needs_other_transformers_says_so(present: str, fits: bool) -> None:
    require_transformers("1.0.0", present)
    if fits:
        require_transformers("1.2.0", present)
        return
    with pytest.raises(RunnerError, match=rf"5\.8 to below 5\.15; this interpreter has {present}.*--runner-python"):
        require_transformers("1.2.0", present)


@pytest.mark.parametrize("name", ["native", "diffusers"])
def test_only_the_official_runner_takes_a_checkout(name: str, micro_weights: WeightsFolder, tmp_path: Path) -> None:
    arguments: dict[str, Any] = {"official_root": tmp_path}
    with pytest.raises(RunnerError, match=f"'{name}' takes no --official-root"):
        open_runner(name, micro_weights, BF16, **arguments)
