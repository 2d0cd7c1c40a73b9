"""Limits know other thread counts and the other CPU capability: both were measured, and runs so made are at parity."""

import pytest
import torch

from parity.calibrate.drift import CandidateDrift, SketchedRun, drift, sketched_run
from parity.calibrate.harmless import other_capability, threads
from parity.diff.comparison import MEASURED, OUTPUTS, Comparison
from parity.diff.metric import DRIFT
from parity.diff.runs import drift_level
from parity.judge.registry import Registry, load_registry
from parity.judge.rules import judge
from parity.runs.environment import fingerprint
from parity.runs.golden import find_case
from parity.runs.places import project_root
from runners.weights import WeightsFolder

CASE = "tiny_ti2v"
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def registry() -> Registry:
    return load_registry(project_root() / "thresholds" / "consistency_threshold.json")


@pytest.fixture(scope="module")
def reference(tiny_weights: WeightsFolder) -> SketchedRun:
    return sketched_run(tiny_weights, find_case(CASE))


def judged(registry: Registry, drifted: CandidateDrift, **elsewhere: str) -> str:
    environment = {key: str(value) for key, value in fingerprint(torch.device("cpu")).items()} | elsewhere
    found = judge(
        Comparison(
            case=CASE,
            metrics=drifted.metrics,
            findings=(
                *drifted.outputs.findings,
                *drifted.taps.findings,
            ),
            environment_of_candidate=environment,
            levels={OUTPUTS: MEASURED, "drift": drift_level(drifted.taps, drifted.flow)},
        ),
        "limits",
        registry=registry,
    )
    assert not any(row.expired for row in found.rows), [row.expired for row in found.rows if row.expired][:1]
    return found.outcome


def test_threads_and_both_capabilities_are_in_the_population_that_limits_come_from(registry: Registry) -> None:
    limits = registry.limits_of(CASE)
    outputs_and_drift = [limit for name, limit in limits.items() if limit.samples and not name.startswith("isolated.")]
    assert outputs_and_drift and any(name.startswith(DRIFT) for name in limits)
    for limit in outputs_and_drift:
        assert limit.samples is not None
        assert {"one_thread", "two_threads", "other_capability"} <= limit.samples.floor.keys()
    for name in {limit.calibration for limit in limits.values() if limit.calibration}:
        assert not {"threads", "cpu", "cpu_capability"} & set(registry.calibrations[name].expires_with)


def test_a_run_with_the_other_capability_is_at_parity_by_limits(
    registry: Registry, reference: SketchedRun, tiny_weights: WeightsFolder
) -> None:
    variation = other_capability()
    if variation is None:
        pytest.skip("this CPU has no vector instructions to do without")
    drifted = drift(tiny_weights, find_case(CASE), reference, variables=variation.variables)
    assert not drifted.bit_equal and not drifted.outputs.findings and not drifted.taps.findings
    assert drifted.metrics["frames.psnr_db.min"] > 35
    assert 0 < drifted.metrics["drift.block.video.self_attn.first_step"] < 0.1
    assert judged(registry, drifted, cpu_capability="another") == "parity"


def test_a_run_on_another_number_of_threads_is_at_parity_by_limits(
    registry: Registry, reference: SketchedRun, tiny_weights: WeightsFolder
) -> None:
    with threads(torch.get_num_threads() + 1):
        drifted = drift(tiny_weights, find_case(CASE), reference)
        assert judged(registry, drifted) == "parity"
    assert not drifted.bit_equal
