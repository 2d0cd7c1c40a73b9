"""A population that grows: what is lacking, what is joined, and what is refused."""

import math
from typing import Any

import msgspec
import pytest

from parity.calibrate.extend import extended, lacking
from parity.calibrate.harmless import variations
from parity.calibrate.populations import Populations
from parity.diff.metric import METRICS
from parity.judge.limit import Calibration, derive_limit, exact_limit
from parity.judge.limit_table import TableKey
from parity.judge.reach import MARGIN
from parity.judge.registry import Registry
from runners.errors import RegistryError

ERROR, LEVEL, ALONE = "video_latent.relative_l2", "frames.psnr_db.min", "isolated.sigmas"
EXACT = "frames.count.difference"
HERE = {"device": "cpu", "torch": "2.13.0", "weights_sha256": "ab"}
KEY = TableKey("c")


def registry(**changes: Any) -> Registry:
    """Limits of one case, measured in two sittings."""
    first = Calibration(
        date="2026-01-02", command="x", runs=("c: 2",), environment=HERE, expires_with=("device", "torch")
    )
    second = msgspec.structs.replace(first, date="2026-01-03", command="y", runs=("c: 1",))
    floor = {"noise_ulp_0": [0.5], "text_ulp_0": [0.4]}
    limits = {
        ERROR: derive_limit(METRICS[ERROR], floor=floor, defects={"d": [8.0]}, calibration="first"),
        LEVEL: derive_limit(METRICS[LEVEL], floor={"noise_ulp_0": [40.0]}, defects={}, calibration="second"),
        ALONE: derive_limit(METRICS[ALONE], floor={"products": [0.1, 0.1]}, defects={}, calibration="first"),
        EXACT: exact_limit(METRICS[EXACT]),
    }
    named = {"first": msgspec.structs.replace(first, **changes), "second": second}
    return Registry(calibrations=named, cases={KEY: limits})


def found(compared_on: str = "", **values: dict[str, float]) -> dict[str, Populations]:
    return {"c": Populations(case="c", floor=values, defects={}, findings={}, shown_at={}, compared_on=compared_on)}


def test_what_a_case_lacks_are_variations_without_a_sample_that_are_not_tried_part_by_part() -> None:
    known = variations(range(3))
    assert {one.id for one in known if one.alone} >= {"math_attention", "two_threads"}
    missing = lacking(registry(), KEY, known)
    assert {"noise_ulp_1", "noise_ulp_2", "text_ulp_1", "text_ulp_2", "repeated"} <= set(missing)
    assert not {"noise_ulp_0", "text_ulp_0", "math_attention", "two_threads"} & set(missing)
    with pytest.raises(RegistryError, match="no limits of 'c on X' to extend"):
        lacking(registry(), TableKey("c", "X"), known)


def test_limits_follow_from_both_halves_and_say_so() -> None:
    moved = {ERROR: 2.0, LEVEL: 34.0, EXACT: 0.0}
    new = extended(registry(), found(noise_ulp_1=moved), HERE, "z").registry
    error, level, alone, exact = (new.cases[KEY][name] for name in (ERROR, LEVEL, ALONE, EXACT))
    assert (error.floor, error.floor_from, error.value) == (2.0, "noise_ulp_1", pytest.approx(math.sqrt(2.0 * 8.0)))
    assert error.weakest_defect == 8.0 and error.samples is not None and len(error.samples.floor) == 3
    assert level.value == pytest.approx(34.0 - 20 * math.log10(MARGIN))
    assert alone.calibration == "first" and exact == exact_limit(METRICS[EXACT])
    today = new.calibrations[str(error.calibration)]
    assert (today.command, today.runs[0], len(today.runs)) == ("x; z", "c: 2", 2) and "1 more" in today.runs[1]
    assert new.calibrations[str(level.calibration)].command == "y; z", "each keeps the sitting it began with"
    assert set(new.calibrations) == {"first", str(error.calibration), str(level.calibration)}
    new.verify()


@pytest.mark.parametrize(
    ("environment", "compared_on", "said"),
    [
        ({**HERE, "torch": "2.14.0"}, "", "torch: 2.13.0 -> 2.14.0"),
        ({**HERE, "weights_sha256": "cd"}, "", "weights_sha256: ab -> cd"),
        (HERE, "boxes of 8 px", "compared: everything -> boxes of 8 px"),
    ],
)
def test_a_population_is_of_one_machine_one_model_and_one_comparison(
    environment: dict[str, str], compared_on: str, said: str
) -> None:
    with pytest.raises(RegistryError, match=f"another machine or model .*{said}"):
        extended(registry(), found(compared_on, noise_ulp_1={ERROR: 2.0}), environment, "z")


def test_a_measurement_without_a_limit_extends_nothing() -> None:
    with pytest.raises(RegistryError, match="Nothing that was measured of 'c' has a limit"):
        extended(registry(), found(noise_ulp_1={"audio.snr_db.min": 9.0}), HERE, "z")
