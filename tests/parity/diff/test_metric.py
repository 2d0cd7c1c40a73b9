"""The metric table, and reductions that let no nan slip through."""

import math

import pytest

from parity.diff.comparison import CODES, Finding
from parity.diff.metric import METRICS, average, highest, lowest, metric_named
from runners.errors import RegistryError


def test_every_metric_says_unit_direction_and_meaning_under_a_dotted_lowercase_name() -> None:
    assert len(METRICS) > 40
    for name, metric in METRICS.items():
        assert name == metric.name == name.lower()
        assert "." in name and " " not in name
        assert metric.direction in ("higher", "lower", "exact")
        assert metric.meaning
    assert (METRICS["frames.psnr_db.min"].unit, METRICS["frames.psnr_db.min"].direction) == ("dB", "higher")
    assert METRICS["audio.relative_l2.max"].direction == "lower"
    assert METRICS["outputs.bit_equal.frames"].direction == "exact"


def test_an_unknown_metric_is_refused() -> None:
    assert metric_named("frames.ssim.min").direction == "higher"
    with pytest.raises(RegistryError, match=r"frames\.ssmi\.min"):
        metric_named("frames.ssmi.min")


@pytest.mark.parametrize("values", [[1.0, math.nan], [math.nan, 1.0], [math.nan], []])
def test_nan_and_nothing_reduce_to_nan(values: list[float]) -> None:
    assert math.isnan(highest(values)) and math.isnan(lowest(values)) and math.isnan(average(values))


def test_reductions_of_numbers() -> None:
    assert (highest([1.0, math.inf]), lowest([1.0, -3.0]), average([1.0, 3.5])) == (math.inf, -3.0, 2.25)


def test_a_finding_wants_a_known_code() -> None:
    assert Finding(code="empty", where="audio", message="").code in CODES
    with pytest.raises(ValueError, match="'odd'"):
        Finding(code="odd", where="audio", message="")
