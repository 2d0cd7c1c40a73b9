import math
from dataclasses import replace
from types import SimpleNamespace
from typing import cast

import pytest

from parity.diff.metric import METRICS
from parity.judge.limit import Calibration, derive_limit
from parity.judge.registry import Registry
from parity.trial.calibrate import SCALED, UNJUDGED, Populations, facet_of, limits_of, propose_limits
from runners.errors import RegistryError
from runners.weights import WeightsFolder

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
    assert limit.status == "CALIBRATION_NEEDED" and limit.weakest_defect is None
    assert limit.samples is not None and limit.samples.defects == {"picture_bgr": (0.0,)}


def test_a_defect_that_leaves_every_bit_of_the_video_alone_is_no_target_there() -> None:
    equal = _populations(**{"video_latent.relative_l2": 0.0, "outputs.bit_equal.video_latent": 1.0})
    assert limits_of(equal, "now")["video_latent.relative_l2"].weakest_defect is None
    weak = _populations(**{"video_latent.relative_l2": 0.0})  # some bits moved
    assert limits_of(weak, "now")["video_latent.relative_l2"].weakest_defect == 0.0


def test_overlapping_populations_are_not_made_to_look_apart() -> None:
    limit = limits_of(_populations(**{"video_latent.relative_l2": 0.04}), "now")["video_latent.relative_l2"]
    assert limit.status == "CALIBRATION_NEEDED"
    assert limit.value == pytest.approx(1.25 * 0.03)


def test_every_measured_metric_has_a_limit_or_a_reason_why_not() -> None:
    limits = limits_of(_populations(), "now")
    assert set(limits) | set(UNJUDGED) >= set(MEASURED)
    assert not limits.keys() & UNJUDGED.keys()
    assert limits["frames.count.difference"].status == "exact"


def test_moving_a_metric_out_of_judgement_is_a_removal_that_wants_a_reason() -> None:
    metric = METRICS["video_latent.ulp.p100"]
    environment = {"device": "cpu"}
    calibration = Calibration(
        date="2026-01-02", command="x", runs=("y",), environment=environment, expires_with=("device",)
    )
    old_limit = derive_limit(metric, floor={"a": (1.0,), "b": (2.0,)}, defects={"d": (9.0,)}, calibration="c")
    old = Registry(calibrations={"c": calibration}, cases={"c": {"video_latent.ulp.p100": old_limit}})
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
    assert (sigmas.value, sigmas.status) == (0.0, "calibrated"), "what no rewrite moves must be equal"
    assert "drift.text" not in limits and "isolated.text.mask" not in limits, "groups that the case does not have"
