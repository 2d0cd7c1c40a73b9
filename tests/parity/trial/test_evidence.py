from collections.abc import Callable
from typing import Any

import torch
from parity.trial.isolated_floor import IsolatedFloor

from parity.diff.dataflow import Dataflow
from parity.diff.metric import METRICS
from parity.judge.limit import Calibration, derive_limit, exact_limit
from parity.judge.registry import Registry
from parity.trace.bundle import Outputs
from parity.trial.added_error import Added
from parity.trial.calibrate import UNJUDGED
from parity.trial.drift import Drifted, Recorded
from parity.trial.evidence import Bench
from runners.case import Case


def _outputs(noise: float) -> Outputs:
    draw = torch.Generator().manual_seed(0)
    frames = torch.randint(60, 200, (9, 16, 16, 3), generator=draw, dtype=torch.uint8)
    wave, latent = torch.randn(2, 4800, generator=draw), torch.randn(1, 128, 2, 3, 2, generator=draw)
    return Outputs(
        video_frames=frames,
        audio_waveform=wave,
        video_latent=(latent + noise * torch.randn(latent.shape, generator=draw)).bfloat16(),
        audio_latent=torch.ones(1, 8, 5, 16).bfloat16(),
        frame_rate=24.0,
        sample_rate=48000,
    )


def _bench() -> Bench:
    environment = {"device": "cpu"}
    calibration = Calibration(
        date="2026-01-02", command="x", runs=("y",), environment=environment, expires_with=("device",)
    )
    limits = {
        name: exact_limit(metric)
        if metric.direction == "exact"
        else derive_limit(
            metric,
            floor={"a": (_at(metric.direction, 0.02),), "b": (_at(metric.direction, 0.01),)},
            defects={"d": (_at(metric.direction, 0.9),)},
            calibration="c",
        )
        for name, metric in METRICS.items()
        if name not in UNJUDGED and not name.startswith("small_")
    }
    return Bench(
        limits_of="c",
        registry=Registry(calibrations={"c": calibration}, cases={"c": limits}, unjudged=UNJUDGED),
        environment=environment,
        drift_floors={"init/video": 0.001},
        isolated_floor=IsolatedFloor(by_kind={"decode/mel": 0.01}),
        num_blocks=2,
    )


def _at(direction: str, distance: float) -> float:
    return 1 - distance if direction == "higher" else distance


def _drifted(case: Case, noise: float, **errors: float) -> Drifted:
    taps = dict.fromkeys(Dataflow(case, 2).taps, 0.0) | {
        name.replace("__", "/"): value for name, value in errors.items()
    }
    return Drifted(outputs=_outputs(noise), errors=taps, bit_equal=False, first_difference=None)


def _examined(case: Case, drifted: Drifted, rows: tuple[Added, ...] = ()) -> Any:
    return _bench().examine(case, Recorded(outputs=_outputs(0.0), taps={}), drifted, rows)


def test_each_level_tells_by_itself(micro_case: Callable[..., Case]) -> None:
    case = micro_case()
    quiet = _examined(case, _drifted(case, 0.0))
    assert quiet.bits_differ and not quiet.killed and quiet.place == ""
    loud = _examined(case, _drifted(case, 0.5))
    assert loud.by_outputs and "video_latent.relative_l2" in loud.metrics and not loud.departs_at
    away = _examined(case, _drifted(case, 0.0, init__video=0.01))
    assert away.departs_at == ("init/video",) and away.killed and not away.by_outputs
    alone = _examined(case, _drifted(case, 0.0), (Added(where="decode/mel", error=0.1),))
    assert alone.adds_at == ("decode/mel",) and alone.place == "decode/mel"


def test_what_harmless_noise_reaches_is_let_by(micro_case: Callable[..., Case]) -> None:
    case = micro_case()
    harmless = _examined(case, _drifted(case, 0.0, init__video=0.0029), (Added(where="decode/mel", error=0.0124),))
    assert not harmless.killed  # three times the drift floor, and 1.25 times the isolated one, are the bounds


def test_a_tap_that_is_missing_or_not_the_cases_own_departs(micro_case: Callable[..., Case]) -> None:
    case = micro_case()
    drifted = _drifted(case, 0.0)
    errors = {name: error for name, error in drifted.errors.items() if name != "decode/mel"} | {"made/up": torch.inf}
    found = _examined(case, Drifted(outputs=drifted.outputs, errors=errors, bit_equal=False, first_difference=None))
    assert found.departs_at == ("decode/mel", "made/up")


def test_a_nan_in_isolation_is_no_equality(micro_case: Callable[..., Case]) -> None:
    case = micro_case()
    found = _examined(case, _drifted(case, 0.0), (Added(where="decode/mel", error=float("nan")),))
    assert found.adds_at == ("decode/mel",)
