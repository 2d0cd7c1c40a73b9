"""On a GPU: native has the bits of official 1.2.0 in every tap, with products of e4m3 numbers as CUDA has them.

The variables are those of test_exact_tier_releases.py; without them these are deselected with that reason.
"""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from parity.trace.file import read_trace
from runners.case import Case
from runners.forge.make import forge
from runners.weights import WeightsFolder
from tests.runners.conftest import Checkout
from tests.runners.native.test_exact_tier_gpu import SIZE
from tests.runners.native.test_exact_tier_releases import BF16, SCALED, different, native_run, official_run

pytestmark = [pytest.mark.gpu, pytest.mark.filterwarnings("default")]
CUDA = torch.device("cuda")


@pytest.fixture(scope="module")
def small_scaled(tmp_path_factory: pytest.TempPathFactory) -> WeightsFolder:
    """Seven of eight blocks quantised beforehand."""
    folder = tmp_path_factory.mktemp("weights") / "small"
    return WeightsFolder(forge("small", 0, folder, CUDA, quantization="fp8_scaled_mm"))


@pytest.mark.parametrize("name", SCALED)
@pytest.mark.parametrize("release", ["1.2.0"])
def test_products_of_e4m3_numbers_have_the_bits_of_the_release(
    release: str,
    name: str,
    released_checkout: Checkout,
    small_scaled: WeightsFolder,
    micro_case: Callable[..., Case],
    tmp_path: Path,
) -> None:
    case = micro_case({**SIZE, **SCALED[name], "reference": release, "quantization": "fp8_scaled_mm"})
    official = official_run(released_checkout, small_scaled, case, BF16, tmp_path / "official", CUDA)
    assert len(read_trace(official.folder)) > 100
    assert different(official, native_run(small_scaled, case, BF16, tmp_path / "native", device=CUDA)) == []
