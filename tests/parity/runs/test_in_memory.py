"""A run in a child with other environment variables: another CPU capability shows, nothing varied is refused."""

import sys
from collections.abc import Callable
from pathlib import Path
from unittest.mock import patch

import pytest
import torch

from parity.calibrate import harmless
from parity.calibrate.drift import sketched_run
from parity.calibrate.harmless import other_capability
from runners.case import Case
from runners.errors import RunnerError
from runners.weights import WeightsFolder

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    ("here", "set_already", "variables"),
    [
        ("AVX512", {}, {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2"}),
        ("AVX2", {}, {"ATEN_CPU_CAPABILITY": "default"}),
        ("AVX2", {"ONEDNN_MAX_CPU_ISA": "AVX2"}, {"ATEN_CPU_CAPABILITY": "", "ONEDNN_MAX_CPU_ISA": ""}),
        ("DEFAULT", {}, None),
    ],
)
def test_the_other_capability_of_a_cpu(
    here: str, set_already: dict[str, str], variables: dict[str, str] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in harmless.CAPABILITY_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    for name, value in set_already.items():
        monkeypatch.setenv(name, value)
    with patch.object(torch.backends.cpu, "get_cpu_capability", lambda: here):
        found = other_capability()
    assert (None if found is None else found.variables) == variables
    assert found is None or (found.id == "other_capability" and not found.alone)


def test_a_child_that_computes_as_we_do_is_no_variation(
    micro_weights: WeightsFolder, micro_case: Callable[..., Case], warm: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", str(warm))
    with pytest.raises(RunnerError, match="OF_NO_CONSEQUENCE=1 computes as this one does"):
        sketched_run(micro_weights, micro_case(), "native", variables={"OF_NO_CONSEQUENCE": "1"})
