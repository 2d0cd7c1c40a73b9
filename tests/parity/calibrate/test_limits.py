import math
from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import cast

import pytest
import torch

from parity.calibrate import populations as calibrate
from parity.calibrate.harmless import ORACLE, oracle_at, variations
from parity.calibrate.limits import (
    SCALED,
    UNJUDGED,
    calibration_of,
    facet_of,
    limits_of,
    propose_limits,
)
from parity.calibrate.populations import Populations, measure
from parity.calibrate.rewrites import REWRITES
from parity.diff.metric import METRICS
from parity.judge.limit import Calibration, derive_limit
from parity.judge.limit_table import TableKey
from parity.judge.registry import Registry
from parity.runs import golden
from parity.runs import reduced as trace_reduced
from parity.runs.folder import Run
from runners.errors import RegistryError
from runners.weights import WeightsFolder

pytestmark = pytest.mark.slow

FLOOR = {"a": 0.02, "b": 0.03}
MEASURED = [name for name in METRICS if not name.startswith(("small_", "taps.", "drift.", "isolated."))]


def _populations(**changes: float) -> Populations:
    """Every metric at a plausible value; video metrics see a defect of video, audio ones do not."""
    defect = dict.fromkeys(MEASURED, 0.5) | {name: 0.0 for name in MEASURED if name.startswith("audio")}
    floor = {
        name: {metric: value if METRICS[metric].direction != "higher" else 1 - value for metric in MEASURED}
        for name, value in FLOOR.items()
    }
    return Populations(case="c", floor=floor, defects={"picture_bgr": defect | changes}, findings={}, shown_at={})


@pytest.mark.parametrize(
    ("metric", "facet"),
    [
        ("frames.psnr_db.min", "frames"),
        ("video_latent.cosine", "video_latent"),
        ("audio.snr_db.min", "audio"),
        ("audio.lag_samples.max_abs", "audio_lag"),
        ("audio.level_db.max_abs", "audio_level"),
        ("audio_latent.max_abs", "audio_latent"),
        ("av.offset_ms.abs", "av_offset"),
        ("drift.decode.frames", "frames"),
        ("drift.decode.mel", "audio"),
        ("drift.block.video.ff.second_half", "video_latent"),
        ("drift.latent.audio.first_half", "audio_latent"),
        ("drift.block.video.ff.first_step", None),
        ("drift.connector.video", None),
        ("isolated.block.video.ff", None),
        ("drift.decode.frames", "frames"),
        ("drift.decode.mel", "audio"),
        ("drift.block.video.ff.second_half", "video_latent"),
        ("drift.latent.audio.first_half", "audio_latent"),
        ("drift.block.video.ff.first_step", None),
        ("drift.connector.video", None),
        ("isolated.block.video.ff", None),
    ],
)
def test_each_metric_answers_for_what_it_looks_at(metric: str, facet: str | None) -> None:
    assert facet_of(metric) == facet


def test_a_limit_lies_halfway_in_ratio_between_the_worst_harmless_run_and_the_weakest_target() -> None:
    limit = limits_of(_populations(), "now")["video_latent.relative_l2"]
    assert limit.value == pytest.approx(math.sqrt(0.03 * 0.5))
    assert (limit.status, limit.floor_from, limit.weakest_defect_from) == ("calibrated", "b", "picture_bgr")


def test_a_defect_of_video_is_no_target_of_audio_metrics_though_its_sample_is_kept() -> None:
    limit = limits_of(_populations(), "now")["audio_latent.relative_l2"]
    assert limit.status == "OVERLAP" and limit.weakest_defect is None
    assert limit.samples is not None and limit.samples.defects == {"picture_bgr": (0.0,)}


def test_a_defect_that_leaves_every_bit_of_the_video_alone_is_no_target_there() -> None:
    equal = _populations(**{"video_latent.relative_l2": 0.0, "outputs.bit_equal.video_latent": 1.0})
    assert limits_of(equal, "now")["video_latent.relative_l2"].weakest_defect is None
    weak = _populations(**{"video_latent.relative_l2": 0.0})  # some bits moved
    assert limits_of(weak, "now")["video_latent.relative_l2"].weakest_defect == 0.0


def test_overlapping_populations_are_not_made_to_look_apart() -> None:
    limit = limits_of(_populations(**{"video_latent.relative_l2": 0.04}), "now")["video_latent.relative_l2"]
    assert limit.status == "OVERLAP"
    assert limit.value == pytest.approx(1.25 * 0.03)


def test_every_measured_metric_has_a_limit_or_a_reason_why_not() -> None:
    limits = limits_of(_populations(), "now")
    assert set(limits) | set(UNJUDGED) >= set(MEASURED)
    assert not limits.keys() & UNJUDGED.keys()
    assert limits["frames.count.difference"].status == "exact"


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_limits_expire_with_neither_threads_nor_the_capability_of_a_cpu(device: str) -> None:
    weights = cast(WeightsFolder, SimpleNamespace(hash="00"))
    found = calibration_of(weights, {"c": _populations()}, "a command", torch.device(device))
    assert {"device", "torch", "sdpa_backends"} == set(found.expires_with)
    assert {"threads", "cpu", "cpu_capability"} <= found.environment.keys()  # named all the same
    assert found.changed({**found.environment, "threads": "97", "cpu_capability": "AVX2"}) == []


def test_a_calibration_says_of_which_cases_not_everything_was_compared() -> None:
    weights = cast(WeightsFolder, SimpleNamespace(hash="00"))
    some = replace(_populations(), compared_on="boxes of 8 px, no taps")
    assert calibration_of(weights, {"a": _populations(), "b": some}, "a command").compared_on == {
        "b": "boxes of 8 px, no taps"
    }


def test_moving_a_metric_out_of_judgement_is_a_removal_that_wants_a_reason() -> None:
    metric = METRICS["video_latent.ulp.p100"]
    environment = {"device": "cpu"}
    calibration = Calibration(
        date="2026-01-02", command="x", runs=("y",), environment=environment, expires_with=("device",)
    )
    old_limit = derive_limit(metric, floor={"a": (1.0,), "b": (2.0,)}, defects={"d": (9.0,)}, calibration="c")
    old = Registry(calibrations={"c": calibration}, cases={TableKey("c"): {"video_latent.ulp.p100": old_limit}})
    weights = cast(WeightsFolder, SimpleNamespace(hash="00"))
    proposal = propose_limits(old, weights, {"c": _populations()}, "a command")
    assert ("video_latent.ulp.p100", "removed") in {(change.metric, change.kind) for change in proposal.changes}
    with pytest.raises(RegistryError, match=r"ulp\.p100"):
        proposal.accept(None)
    accepted = proposal.accept("the tail says nothing")
    assert "video_latent.ulp.p100" in accepted.unjudged
    accepted.verify()


def _with_groups(**defect: float) -> Populations:
    plain = _populations()
    groups = {"drift.connector.video": 0.01, "drift.latent.video.second_half": 0.02}
    floor = {name: {**values, **groups} for name, values in plain.floor.items()}
    floor["b"] |= {"isolated.decode.mel": 0.002, "isolated.sigmas": 0.0}
    floor["c"] = {**floor["b"], "isolated.decode.mel": 0.001}
    names = {name.replace("__", "."): value for name, value in defect.items()}
    found = {"picture_bgr": {**plain.defects["picture_bgr"], **names}, "gelu_exact": names}
    return replace(plain, floor=floor, defects=found, shown_at={"gelu_exact": frozenset({"drift.connector.video"})})


def test_a_group_answers_for_defects_that_depart_there_or_are_bound_to_spoil_its_latent() -> None:
    limits = limits_of(_with_groups(drift__connector__video=0.09, drift__latent__video__second_half=0.5), "now")
    first, last = limits["drift.connector.video"], limits["drift.latent.video.second_half"]
    assert (first.weakest_defect_from, first.value) == ("gelu_exact", pytest.approx(0.03))
    assert (last.weakest_defect_from, last.value) == ("picture_bgr", pytest.approx(0.1))
    assert last.samples is not None and set(last.samples.defects) == {"picture_bgr", "gelu_exact"}


def test_isolated_groups_need_no_other_defect_than_a_scale_of_one_percent() -> None:
    limits = limits_of(_with_groups(), "now")
    mel = limits["isolated.decode.mel"]
    assert (mel.status, mel.weakest_defect_from) == ("calibrated", SCALED)
    assert mel.value == pytest.approx(math.sqrt(0.002 * 0.01)) and mel.samples is not None
    assert set(mel.samples.floor) == {"b", "c"}, "only what was tried part by part"
    sigmas = limits["isolated.sigmas"]
    assert sigmas.value == pytest.approx(9.1048e-8, rel=1e-4) and sigmas.status == "calibrated", "by arithmetic"
    assert "7 roundings" in sigmas.reason
    assert "drift.text" not in limits and "isolated.text.mask" not in limits, "groups that the case does not have"


@pytest.fixture
def recorded(golden_of_micro: Callable[..., Run], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Run]:
    """Such a golden, for populations of hardly any members."""
    monkeypatch.setattr(calibrate, "defects_of", lambda _: ())
    monkeypatch.setattr(calibrate, "variations", lambda *population: variations(*population)[:1])
    return golden_of_micro


@pytest.mark.parametrize("reduced", [False, True], ids=["whole", "reduced"])
def test_native_stands_for_a_release_that_cannot_run_here(
    reduced: bool, recorded: Callable[..., Run], micro_weights: WeightsFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    rewrites = () if reduced else REWRITES  # each of which is tried as often, however a golden is kept
    monkeypatch.setattr(calibrate, "REWRITES", rewrites)
    run, said = recorded(reduced=reduced), list[str]()
    found = measure(micro_weights, golden.find_case("micro"), said.append, run)
    assert said[0] == "micro: harmless, the same run once more" and len(said) == 1 + len(rewrites) + 1
    assert not any(name.startswith("isolated.") for values in found.floor.values() for name in values)
    assert found.floor["repeated"]["drift.decode.mel"] == 0.0 < found.floor["all_at_once"]["drift.decode.mel"]
    assert found.floor["repeated"]["video_latent.relative_l2"] == 0.0
    small = {name for name in found.floor["repeated"] if name.startswith("small_frames.")}
    assert bool(small) == reduced and ("frames.flicker.max" in found.floor["repeated"]) != reduced
    assert found.compared_on == ("boxes of 8 px, no taps" if reduced else "")


def test_drift_is_measured_on_the_taps_that_a_reduced_golden_keeps(
    recorded: Callable[..., Run], micro_weights: WeightsFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trace_reduced, "kept_taps", lambda plans, last_block: "text/* decode/*")
    monkeypatch.setattr(calibrate, "REWRITES", ())
    run = recorded(reduced=True, pattern="*")
    found = measure(micro_weights, golden.find_case("micro"), lambda _: None, run)
    drift = {name for values in found.floor.values() for name in values if name.startswith("drift.")}
    assert drift == {"drift.text", "drift.decode.frames", "drift.decode.mel", "drift.decode.waveform"}
    assert found.compared_on == "boxes of 8 px, taps text/* decode/*"


def test_a_native_run_without_every_bit_of_the_recorded_one_stands_for_nothing(
    recorded: Callable[..., Run], micro_weights: WeightsFolder
) -> None:
    run = recorded(reduced=True, guidance_fp32=True)
    with pytest.raises(RegistryError, match="not the official one bit for bit"):
        measure(micro_weights, golden.find_case("micro"), lambda _: None, run)


def test_the_oracle_keeps_the_positions_that_its_release_computes() -> None:
    assert oracle_at("1.1.2") is ORACLE and ORACLE in variations(range(1), "1.1.2")
    later = oracle_at("1.2.0")
    assert later.apply is not ORACLE.apply and later.dtype == torch.float32 and later in variations(range(1), "1.2.0")
