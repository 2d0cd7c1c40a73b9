"""Padding is not text: whatever Gemma leaves there, a run and all its taps are the same, and no comparison sees it."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import pytest
import torch
from torch import Tensor

from parity.calibrate.drift import CandidateDrift, SketchedRun, drift, sketched_run
from parity.defects.catalogue import CATALOGUE
from parity.defects.defect import present
from parity.explain.explanation import Explanation, explain
from parity.explain.floors import Floors
from parity.report.explanation import explanation_lines
from runners.case import Case
from runners.ltx23.gemma import GemmaEncoder
from runners.native.runner import NativeRunner
from runners.protocol import RunOptions
from runners.weights import WeightsFolder

OPTIONS = RunOptions(device=torch.device("cpu"))
SHORT = {"request.prompt": "A cat.", "request.num_inference_steps": 1}
OUTPUTS = ("video_frames", "audio_waveform", "video_latent", "audio_latent")


@contextmanager
def padding_of(value: float) -> Iterator[None]:
    """Gemma leaves another value at every place of padding."""
    original = GemmaEncoder.together

    def together(self: GemmaEncoder, prompts: list[str]) -> list[tuple[tuple[Tensor, ...], Tensor]]:
        return [
            (tuple(torch.where(mask[..., None] == 0, value, state) for state in states), mask)
            for states, mask in original(self, prompts)
        ]

    with patch.object(GemmaEncoder, "together", together):
        yield


@pytest.mark.parametrize("value", [1000.0, torch.nan])
def test_garbage_in_the_padding_changes_no_bit_of_any_tap_or_output(
    value: float,
    micro_weights: WeightsFolder,
    micro_case: Callable[..., Case],
    run: Callable[..., Any],
    official_run: Callable[..., Any],
) -> None:
    case = micro_case(SHORT)
    official = official_run(case)
    with padding_of(value):
        native = run(NativeRunner(micro_weights, OPTIONS), case)
    assert official.taps.keys() == native.taps.keys()
    assert [tap for tap, tensor in official.taps.items() if not torch.equal(tensor, native.taps[tap])] == []
    assert all(torch.equal(getattr(official.outcome, name), getattr(native.outcome, name)) for name in OUTPUTS)
    tokens = {sign: official.taps[f"text/{sign}/hidden"].shape[1] for sign in ("pos", "neg")}
    assert 1 < tokens["pos"] < tokens["neg"] < 20, "a few words, not a window"


@pytest.fixture(scope="module")
def reference(micro_weights: WeightsFolder, micro_case: Callable[..., Case]) -> SketchedRun:
    return sketched_run(micro_weights, micro_case(SHORT))


def told(found: CandidateDrift, bits_expected: bool) -> Explanation:
    return explain(found.taps, found.flow, Floors(found.flow, "bf16"), bits_expected=bits_expected)


def test_garbage_in_the_padding_is_nothing_to_a_comparison(
    micro_weights: WeightsFolder, micro_case: Callable[..., Case], reference: SketchedRun
) -> None:
    with padding_of(-3.0):
        found = drift(micro_weights, micro_case(SHORT), reference)
    assert found.bit_equal and found.metrics["drift.text"] == 0.0 and found.taps.compared == len(found.flow.taps)
    assert (
        explanation_lines(told(found, bits_expected=True))[0]
        == f"all {len(found.flow.taps)} taps are equal in every bit"
    )


def test_an_engine_that_pads_on_the_right_is_not_said_to_be_wrong_at_gemma(
    micro_weights: WeightsFolder, micro_case: Callable[..., Case], reference: SketchedRun
) -> None:
    (right,) = (defect for defect in CATALOGUE if defect.id == "text_padded_on_the_right")
    with present(right):
        found = drift(micro_weights, micro_case(SHORT), reference)
    assert found.taps.findings == () and 0 < found.metrics["drift.text"] < 0.01, "rounding, at other positions"
    first = told(found, bits_expected=False).divergence.roots[0]
    assert first.tap.startswith("connector/pos/"), "what takes its registers from the wrong side"


def test_another_number_of_tokens_is_a_shape_of_its_own(
    micro_weights: WeightsFolder, micro_case: Callable[..., Case], reference: SketchedRun
) -> None:
    (fewer,) = (defect for defect in CATALOGUE if defect.id == "text_without_first_token")
    with present(fewer):
        found = drift(micro_weights, micro_case(SHORT), reference)
    named = [(one.code, one.where) for one in found.taps.findings]
    assert named[:2] == [("shape_mismatch", "text/pos/hidden"), ("shape_mismatch", "text/neg/hidden")]
