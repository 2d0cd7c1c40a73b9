import math
from collections.abc import Callable
from typing import Any

import torch

from parity.calibrate.drift import CandidateDrift
from parity.calibrate.limits import UNJUDGED
from parity.calibrate.mutation_evidence import Judge
from parity.diff.metric import METRICS
from parity.diff.outputs import compare_outputs
from parity.diff.sketches import SketchDiff
from parity.diff.traces import TraceDiff
from parity.isolate.error import IsolatedError
from parity.judge.limit import Calibration, derive_limit, exact_limit
from parity.judge.limit_table import TableKey
from parity.judge.registry import Registry
from parity.runs.folder import RunOutputs
from parity.taps.dataflow import Dataflow
from parity.taps.group import drift_group
from runners.case import Case

MEL = "isolated.decode.mel"


def _outputs(noise: float) -> RunOutputs:
    draw = torch.Generator().manual_seed(0)
    frames = torch.randint(60, 200, (9, 16, 16, 3), generator=draw, dtype=torch.uint8)
    wave, latent = torch.randn(2, 4800, generator=draw), torch.randn(1, 128, 2, 3, 2, generator=draw)
    return RunOutputs(
        video_frames=frames,
        audio_waveform=wave,
        video_latent=(latent + noise * torch.randn(latent.shape, generator=draw)).bfloat16(),
        audio_latent=torch.ones(1, 8, 5, 16).bfloat16(),
        frame_rate=24.0,
        sample_rate=48000,
    )


def _bench(flow: Dataflow) -> Judge:
    """Limits at 0.1 from agreement, those of isolated errors at 0.01."""
    environment = {"device": "cpu"}
    calibration = Calibration(
        date="2026-01-02",
        command="x",
        runs=("y",),
        environment=environment,
        expires_with=("device",),
        padded_text=False,
    )
    groups = {f"drift.{drift_group(tap, flow.steps)}" for tap in flow.taps} | {MEL}
    limits = {
        name: exact_limit(metric)
        if metric.direction == "exact"
        else derive_limit(
            metric,
            floor={"a": (_at(metric.direction, 0.01 if name != MEL else 0.001),) * 2},
            defects={"d": (_at(metric.direction, 1.0 if name != MEL else 0.1),)},
            calibration="c",
        )
        for name, metric in METRICS.items()
        if name not in UNJUDGED
        and not name.startswith("small_")
        and (name in groups or not name.startswith(("drift.", "isolated.")))
    }
    return Judge(
        limits_of="c",
        registry=Registry(calibrations={"c": calibration}, cases={TableKey("c"): limits}, unjudged=UNJUDGED),
        environment=environment,
    )


def _at(direction: str, distance: float) -> float:
    return 1 - distance if direction == "higher" else distance


def _examined(
    case: Case,
    rows: tuple[IsolatedError, ...] | None = None,
    noise: float = 0.0,
    is_wanted: Callable[[str], bool] = lambda _: True,
    **errors: float,
) -> Any:
    flow = Dataflow(case, 2)
    taps = {
        tap: SketchDiff(bit_equal=error == 0, estimate=error)
        for tap in flow.taps
        if not math.isnan(error := errors.get(tap.replace("/", "__"), 0.0))
    }
    drifted = CandidateDrift(
        outputs=compare_outputs(_outputs(0.0), _outputs(noise)),
        taps=TraceDiff(taps=taps, findings=(), is_wanted=is_wanted),
        flow=flow,
    )
    return _bench(flow).examine(drifted, rows)


def test_each_level_tells_by_itself(micro_case: Callable[..., Case]) -> None:
    case = micro_case()
    mel = IsolatedError(where="decode/mel", error=0.005)
    quiet = _examined(case, (mel,), init__video=0.02)
    assert quiet.bits_differ and not quiet.killed and quiet.place == "" and quiet.metrics == ()
    loud = _examined(case, (mel,), noise=0.5)
    assert loud.killed_by == {"outputs": True, "outputs+drift": True, "outputs+drift+isolated": True}
    assert "video_latent.relative_l2" in loud.metrics and not loud.departs_at
    away = _examined(case, (mel,), init__video=0.2)
    assert away.killed_by == {"outputs": False, "outputs+drift": True, "outputs+drift+isolated": True}
    assert away.departs_at == ("init/video",) and away.by_level("drift") and not away.by_level("isolated")
    alone = _examined(case, (IsolatedError(where="decode/mel", error=0.02),))
    assert alone.killed_by == {"outputs": False, "outputs+drift": False, "outputs+drift+isolated": True}
    assert alone.adds_at == ("decode/mel",) and alone.place == "decode/mel" and alone.metrics == (MEL,)


def test_a_candidate_that_cannot_be_isolated_is_judged_by_the_rest(micro_case: Callable[..., Case]) -> None:
    found = _examined(micro_case(), None)
    assert not found.killed and found.findings == ()


def test_a_place_that_was_not_measured_is_missed(micro_case: Callable[..., Case]) -> None:
    found = _examined(micro_case(), ())
    assert found.killed and found.findings == ("missing_metric",) and not found.killed_by["outputs+drift"]


def test_a_tap_that_is_missing_departs_and_its_group_is_missed(micro_case: Callable[..., Case]) -> None:
    found = _examined(micro_case(), None, decode__mel=math.nan)
    assert found.departs_at == ("decode/mel",) and found.killed and not found.by_outputs


def test_a_tap_that_a_reduced_golden_does_not_keep_is_no_departure(micro_case: Callable[..., Case]) -> None:
    missing: dict[str, Any] = {"denoise__000__cond__block__01__video__self_attn": math.nan, "decode__frames": 0.3}
    found = _examined(micro_case(), None, is_wanted=lambda tap: "/block/01/" not in tap, **missing)
    assert found.departs_at == ("decode/frames",) and found.place == "decode/frames"


def test_a_nan_in_isolation_is_no_equality(micro_case: Callable[..., Case]) -> None:
    rows = (
        IsolatedError(where="decode/mel", error=0.0),
        IsolatedError(where="denoise/000/uncond", error=math.nan, note="no pass"),
    )
    found = _examined(micro_case(), rows)
    assert found.adds_at == ("denoise/000/uncond",) and found.findings == ("not_isolated",) and found.killed
