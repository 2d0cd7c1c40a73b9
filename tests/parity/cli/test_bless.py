"""`parity bless --reference`: what changed, the limits that hold from now on, and the golden that held before."""

import fcntl
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch
from typer.testing import CliRunner

from parity.calibrate import limits as calibrate
from parity.calibrate import populations as populations_library
from parity.calibrate.limits import UNJUDGED
from parity.calibrate.populations import Populations
from parity.cli.app import app
from parity.diff.metric import METRICS
from parity.diff.runs import GoldenSubset, subset_of_case, subset_phrase
from parity.identify import release_effects
from parity.identify.releases import named
from parity.judge.limit_table import TableKey
from parity.judge.registry import Registry, load_registry, save_registry
from parity.judge.saved import require_population
from parity.runs import golden
from parity.runs.folder import Run, read_run
from parity.runs.store import ENVIRONMENT_VARIABLE
from runners.errors import RegistryError
from runners.weights import WeightsFolder

pytestmark = pytest.mark.slow

LeaveRun = Callable[..., Path]
MICRO = TableKey("micro")


def invoke(*arguments: object) -> tuple[int, str]:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    return result.exit_code, result.output


def populations(floor: float) -> Populations:
    """Every metric of whole runs, its harmless values a distance of `floor` from perfect agreement."""
    names = [name for name in METRICS if name not in UNJUDGED and not name.startswith("small_")]
    values = {name: floor if METRICS[name].direction != "higher" else 1 - floor for name in names}
    return Populations(case="micro", floor={"a": values, "b": values}, defects={}, findings={}, shown_at={})


@pytest.fixture
def root(
    tmp_path: Path,
    micro_case_text: str,
    micro_weights: WeightsFolder,
    leave_run: LeaveRun,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Path]:
    """A checkout whose micro case has a golden of 1.0.0 and limits; nothing is run, numbers are made up instead."""
    (tmp_path / "golden" / "micro").mkdir(parents=True)
    (tmp_path / "golden" / "micro" / "case.toml").write_text(micro_case_text)
    (tmp_path / "thresholds").mkdir()
    monkeypatch.setenv("PARITY_ROOT", str(tmp_path))
    golden.bless(read_run(leave_run("old")), "first")
    proposal = calibrate.propose_limits(Registry(), micro_weights, {"micro": populations(0.01)}, "a test")
    save_registry(limits(tmp_path), proposal.accept("first"))

    def measure(_files: Any, case: Any, _say: Any, golden: Run, subset: GoldenSubset | None) -> Populations:
        assert case.reference == golden.manifest.reference == "1.2.0"
        return replace(populations(0.02), compared_on=subset_phrase(subset))

    monkeypatch.setattr(populations_library, "measure", measure)
    monkeypatch.setattr(release_effects, "measured", lambda old, new, *_: named(old, new))
    threads = torch.get_num_threads()
    yield tmp_path
    torch.set_num_threads(threads)  # a blessing computes on as many as the run had


def limits(root: Path) -> Path:
    return root / "thresholds" / "consistency_threshold.json"


def test_a_case_moves_with_its_limits_and_keeps_the_old_golden(
    root: Path, leave_run: LeaveRun, micro_weights: WeightsFolder
) -> None:
    before = load_registry(limits(root)).cases[MICRO]
    new = leave_run("new", reference="1.2.0", first="decode/frames")
    arguments = ("bless", new, "--reference", "1.2.0", "--reason", "1.2.0 is what ships")
    code, said = invoke(*arguments, "--weights", micro_weights.folder)
    assert code == 0, said
    assert "From release 1.0.0 to 1.2.0" in said and "positions_fp32 (1.2.0)" in said  # the changes
    assert "Limits, old against new" in said and "loosened" in said
    assert "kept: golden@1.0.0" in said
    after = load_registry(limits(root)).cases[MICRO]
    name = "video_latent.relative_l2"
    assert after[name].value == pytest.approx(2 * before[name].value)
    assert "1.2.0 is what ships" in after[name].reason
    assert golden.golden_of("micro").manifest.reference == "1.2.0"
    old_run = leave_run("again", runner="native")
    assert invoke("gate", old_run, "--against", "golden@1.0.0")[0] == 0
    code, said = invoke("gate", old_run)
    assert code == 2 and "Reference mismatch" in said


def test_limits_of_a_golden_that_will_be_reduced_are_measured_on_what_it_will_keep(
    root: Path, leave_run: LeaveRun, micro_weights: WeightsFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(ENVIRONMENT_VARIABLE, str(root / "store"))
    new = leave_run("new", reference="1.2.0", first="decode/frames")
    arguments = ("bless", new, "--reference", "1.2.0", "--reason", "x", "--weights", micro_weights.folder, "--reduced")
    code, said = invoke(*arguments)
    assert code == 0, said
    registry, subset = load_registry(limits(root)), subset_of_case("micro")
    assert subset is not None and "denoise/001/*/block/02/*" in subset_phrase(subset)
    [calibration] = {limit.calibration for limit in registry.cases[MICRO].values() if limit.calibration is not None}
    assert registry.calibrations[calibration].compared_on == {"micro": subset_phrase(subset)}
    require_population(registry)


def test_nobody_else_changes_limits_from_their_reading_to_their_writing(
    root: Path, leave_run: LeaveRun, micro_weights: WeightsFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    true, held = golden.bless, []

    def bless(*given: Any, **named: Any) -> Path:
        with (root / "thresholds" / ".consistency_threshold.json.lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                held.append(True)
        return true(*given, **named)

    monkeypatch.setattr(golden, "bless", bless)
    new = leave_run("new", reference="1.2.0", first="decode/frames")
    code, said = invoke("bless", new, "--reference", "1.2.0", "--reason", "x", "--weights", micro_weights.folder)
    assert code == 0 and held == [True], said


def test_a_move_that_was_stopped_before_its_limits_were_saved_is_finished_by_the_same_command(
    root: Path, leave_run: LeaveRun, micro_weights: WeightsFolder
) -> None:
    before = load_registry(limits(root)).cases[MICRO]
    shutil.copytree(root / "thresholds", root / "before")
    new = leave_run("new", reference="1.2.0", first="decode/frames")
    arguments = ("bless", new, "--reference", "1.2.0", "--reason", "x", "--weights", micro_weights.folder)
    assert invoke(*arguments)[0] == 0
    shutil.rmtree(root / "thresholds")
    (root / "before").rename(root / "thresholds")  # as they were: the golden has moved and they have not
    code, said = invoke(*arguments)
    assert code == 0 and "against the golden it replaces" in said and "kept: golden@1.0.0" in said
    name = "video_latent.relative_l2"
    assert load_registry(limits(root)).cases[MICRO][name].value == pytest.approx(2 * before[name].value)


def test_without_weights_limits_would_be_of_another_release(root: Path, leave_run: LeaveRun) -> None:
    new = leave_run("new", reference="1.2.0")
    code, said = invoke("bless", new, "--reference", "1.2.0", "--reason", "x")
    assert code == 2 and "has limits, which do not hold at another release" in said
    code, said = invoke("bless", new, "--reason", "x")
    assert code == 2 and "say with --reference" in said
    assert golden.golden_of("micro").manifest.reference == "1.0.0"
    limits(root).unlink()
    code, said = invoke("bless", new, "--reference", "1.2.0", "--reason", "x", "--drop-previous")
    assert code == 0 and "16 named changes" in said and "kept:" not in said
    assert golden.releases_kept("micro") == ()


def test_nothing_moves_if_the_limits_cannot_be_measured(
    root: Path, leave_run: LeaveRun, micro_weights: WeightsFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> Populations:
        raise RegistryError("not bit for bit")

    monkeypatch.setattr(populations_library, "measure", refuse)
    new = leave_run("new", reference="1.2.0")
    code, said = invoke("bless", new, "--reference", "1.2.0", "--reason", "x", "--weights", micro_weights.folder)
    assert code == 2 and "not bit for bit" in said
    assert golden.golden_of("micro").manifest.reference == "1.0.0" and golden.releases_kept("micro") == ()


def test_limits_of_a_gpu_are_not_carried_to_another_release(root: Path, leave_run: LeaveRun) -> None:
    registry = load_registry(limits(root))
    there = msgspec.structs.replace(registry, cases={TableKey("micro", "H100"): registry.cases[MICRO]})
    save_registry(limits(root), there)
    code, said = invoke("bless", leave_run("new", reference="1.2.0"), "--reference", "1.2.0", "--reason", "it ships")
    assert code == 2 and "limits on H100" in said
    assert golden.golden_of("micro").manifest.reference == "1.0.0"
