from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import msgspec
import pytest

from parity.calibrate.case_under_test import grounds_of, here, open_case
from parity.calibrate.mutation import mutate
from parity.calibrate.variant_limits import widened
from parity.defects.catalogue import CATALOGUE
from parity.defects.defect import present
from parity.defects.variant import VIDEO_SKIPS, case_variant
from parity.diff.metric import METRICS
from parity.judge.limit import Calibration, Limit, derive_limit
from parity.judge.limit_table import TableKey
from parity.judge.registry import Registry
from parity.runs import golden
from parity.runs.folder import Run
from runners.case import Case
from runners.errors import RegistryError, RunError
from runners.weights import WeightsFolder

LATENT, FRAMES = "video_latent.relative_l2", "frames.mad.max"


def _limits() -> dict[str, Limit]:
    """Limits of two metrics, wide enough for any harmless run."""
    numbers = {LATENT: (0.01, 1.0), FRAMES: (0.4, 255.0)}
    return {
        name: derive_limit(METRICS[name], floor={"a": (low, low)}, defects={"d": (high,)}, calibration="c")
        for name, (low, high) in numbers.items()
    }


def _registry(environment: dict[str, str], *cases: str, **changes: object) -> Registry:
    calibration = Calibration(
        date="2026-01-02", command="x", runs=("y",), environment=environment, expires_with=("device", "threads")
    )
    return Registry(
        calibrations={"c": msgspec.structs.replace(calibration, **changes)},
        cases={TableKey(case): _limits() for case in cases},
    )


@pytest.fixture
def two_cases(tmp_path: Path, micro_case_text: str, monkeypatch: pytest.MonkeyPatch) -> tuple[Case, Case]:
    """The case at hand, and another one that is committed beside it."""
    for name in ("micro", "wide"):
        folder = tmp_path / "golden" / name
        folder.mkdir(parents=True)
        (folder / "case.toml").write_text(micro_case_text.replace('id = "micro"', f'id = "{name}"'))
    monkeypatch.setenv("PARITY_ROOT", str(tmp_path))
    return golden.find_case("micro"), golden.find_case("wide")


NOWHERE = cast(WeightsFolder, SimpleNamespace(hash="00"))


def test_a_committed_case_is_judged_by_its_own_limits_where_it_has_some(two_cases: tuple[Case, Case]) -> None:
    at_hand, wide = two_cases
    environment = here(NOWHERE)
    with_own, without = _registry(environment, "micro", "wide"), _registry(environment, "micro")
    evidence = {
        "own": grounds_of(wide, at_hand, with_own, environment),
        "other": grounds_of(wide, at_hand, without, environment),
        "as it is": grounds_of(at_hand, at_hand, with_own, environment),
        "changed": grounds_of(VIDEO_SKIPS.change(at_hand), at_hand, with_own, environment),
    }
    assert {name: one.limits_of for name, one in evidence.items()} == {
        "own": "wide",
        "other": "micro",
        "as it is": "micro",
        "changed": "micro",
    }
    assert {name: one.own for name, one in evidence.items()} == {
        "own": True,
        "other": False,
        "as it is": True,
        "changed": False,
    }


def test_own_limits_that_do_not_hold_here_are_refused_before_anything_runs(two_cases: tuple[Case, Case]) -> None:
    at_hand, wide = two_cases
    environment = here(NOWHERE)
    elsewhere = _registry(environment, "micro", "wide", compared_on={"wide": "boxes of 8 px, no taps"})
    defect = replace(CATALOGUE[0], variant=case_variant(wide.id))
    with pytest.raises(RegistryError, match=r"(?s)limits of case 'wide' decide nothing here.*boxes of 8 px"):
        mutate(NOWHERE, at_hand, elsewhere, (defect,), lambda _: None)


def test_another_release_wants_a_golden(two_cases: tuple[Case, Case]) -> None:
    at_hand, wide = two_cases
    later = msgspec.structs.replace(wide, reference="1.1.2")
    environment = here(NOWHERE)
    with pytest.raises(RunError, match="no golden"):
        grounds_of(later, at_hand, _registry(environment, "micro"), environment)


def test_native_stands_for_a_release_that_cannot_run_here(
    golden_of_micro: Callable[..., Run], micro_weights: WeightsFolder
) -> None:
    run = golden_of_micro(reduced=False)
    case, environment = golden.find_case("micro"), {**here(micro_weights), "threads": "7"}
    # The golden was recorded on one thread, and so are candidates run, whatever this process computes on.
    registry = _registry({**environment, "threads": str(run.manifest.environment["threads"])}, "micro")
    evidence = grounds_of(case, case, registry, environment)
    assert evidence.environment["threads"] == "1" and evidence.golden is not None
    opened = open_case(micro_weights, evidence, lambda _: None)
    assert opened.parts_alone() is None, "nothing official runs beside its parts"
    assert opened.free_run().bit_equal
    skipping = grounds_of(VIDEO_SKIPS.change(case), case, registry, environment)
    assert skipping.changed and not evidence.changed and skipping.subset is None
    with present(next(defect for defect in CATALOGUE if defect.id == "frames_limited_range")):
        drifted = opened.free_run()
    assert drifted.outputs.metrics[FRAMES] > 1 and drifted.taps.errors["decode/frames"] > 0.01
    assert not drifted.metrics[LATENT]


def test_native_with_other_bits_than_the_golden_stands_for_nothing(
    golden_of_micro: Callable[..., Run], micro_weights: WeightsFolder
) -> None:
    golden_of_micro(reduced=False, guidance_fp32=True)
    case, environment = golden.find_case("micro"), here(micro_weights)
    evidence = grounds_of(case, case, _registry(environment, "micro"), environment)
    with pytest.raises(RegistryError, match="not the recorded official one bit for bit"):
        open_case(micro_weights, evidence, lambda _: None)


def test_limits_of_a_gpu_judge_what_runs_on_it_and_no_others(two_cases: tuple[Case, Case]) -> None:
    at_hand, wide = two_cases
    there = {**here(NOWHERE), "device": "cuda", "device_name": "NVIDIA H200"}
    on_cpu = _registry(here(NOWHERE), "micro")
    with pytest.raises(RegistryError, match="no limits of 'micro on NVIDIA H200'"):
        grounds_of(at_hand, at_hand, on_cpu, there)
    registry = msgspec.structs.replace(
        _registry(there), cases={TableKey("micro", "NVIDIA H200"): _limits(), TableKey("wide"): _limits()}
    )
    evidence = grounds_of(at_hand, at_hand, registry, there)
    assert (evidence.device.type, evidence.limits_on) == ("cuda", "NVIDIA H200")
    assert not grounds_of(wide, at_hand, registry, there).own, "its own limits are of a CPU"
    harmless = {"a": {LATENT: 0.3}}
    wider = widened(registry, "micro", harmless, "NVIDIA H200")
    assert wider.limits_of("micro", "NVIDIA H200")[LATENT].floor == 0.3
    assert widened(registry, "micro", harmless).limits_of("micro", "NVIDIA H200")[LATENT].floor == 0.01
