"""The rows of the engines' table: what a run beside its reference comes to, and which engines there are to run."""

from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import pytest
from msgspec.structs import replace

from bench import engines
from parity.defects.catalogue import CATALOGUE
from parity.defects.defect import present
from parity.runs.execute import run_to_folder, writing_trace
from parity.runs.folder import Run, read_run
from parity.runs.golden import find_case
from runners.case import Case
from runners.clock import Quiet
from runners.native.runner import NativeRunner
from runners.weights import WeightsFolder

Made = Callable[..., Run]


@pytest.fixture(scope="module")
def made(
    micro_weights: WeightsFolder, micro_case: Callable[..., Case], tmp_path_factory: pytest.TempPathFactory
) -> Made:
    """A run of the native model, with a known defect in it if one is named."""

    def record(defect: str | None = None) -> Run:
        folder = tmp_path_factory.mktemp("engines") / "run"
        runner = NativeRunner(micro_weights, engines.BF16)
        here = next((one for one in CATALOGUE if one.id == defect), None)
        with nullcontext() if here is None else present(here):
            tracing = writing_trace("*", "sketch")
            run_to_folder(runner, micro_case(), micro_weights, engines.BF16, folder, Quiet(), tracing)
        return read_run(folder)

    return record


@pytest.fixture(scope="module")
def true(made: Made) -> Run:
    return made()


def test_an_engine_of_which_one_tap_alone_differs(made: Made, true: Run) -> None:
    row = engines.measured("engine", made("mono_on_both_channels"), true, "1.0.0", "as 1.0.0")
    assert (row["engine"], row["candidate"], row["case"]) == ("engine", ["engine"], "micro")
    assert row["taps"] == 187 and row["taps_equal"] == 186  # of two steps of two blocks, without a picture
    assert (row["first_bits"], row["first_bits_tap"]) == ("waveform", "decode/waveform")
    assert row["first_bits_relative_l2"] > 0.1 and row["departs"] == ["decode/waveform"]
    assert len(row["causes"]) == 1 and row["causes"][0].startswith("the vocoder and its resampling filters")
    assert (row["outcome"], row["findings"], row["identified"]) == ("not_at_parity", [], "as 1.0.0")


def test_an_engine_with_every_bit_departs_nowhere(made: Made, true: Run) -> None:
    row = engines.measured("native", made(), true, "1.0.0", "as 1.0.0")
    assert (row["taps"], row["taps_equal"], row["causes"], row["departs"]) == (187, 187, [], [])
    assert row["first_bits"] is row["first_bits_tap"] is row["first_bits_relative_l2"] is None
    assert row["outcome"] == "parity"


def test_engines_elsewhere_have_a_row_where_their_variables_are_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SGLANG_PYTHON", "COMFYUI_PYTHON", "COMFYUI_ROOT"):
        monkeypatch.delenv(f"PARITY_{name}", raising=False)
    assert [one.name for one in engines.engines_here()] == ["native", "diffusers"]
    monkeypatch.setenv("PARITY_SGLANG_PYTHON", "/sglang/python")
    monkeypatch.setenv("PARITY_COMFYUI_PYTHON", "/comfyui/python")
    assert [one.name for one in engines.engines_here()] == ["native", "diffusers", "sglang"]
    monkeypatch.setenv("PARITY_COMFYUI_ROOT", "/comfyui")
    *_, comfyui = engines.engines_here()
    assert (comfyui.name, comfyui.python, comfyui.root) == ("comfyui", Path("/comfyui/python"), Path("/comfyui"))


@pytest.mark.parametrize("release", ["1.0.0", "1.1.2", "1.2.0"])
def test_the_same_request_is_held_to_each_release(release: str) -> None:
    case = engines.case_of_release("tiny_ti2v", release, engines.settings(["request.seed=3"]))
    assert case.reference == release and case.request == replace(find_case("tiny_ti2v").request, seed=3)
