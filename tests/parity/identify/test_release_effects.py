"""Each change between releases, measured by itself."""

import json
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

from parity.identify.release_effects import measured
from parity.runs.execute import run_to_folder, writing_trace
from parity.runs.folder import RUN_FILE, Run, read_run
from runners.case import Case
from runners.clock import Quiet
from runners.errors import RunError
from runners.native.runner import NativeRunner
from runners.protocol import RunOptions
from runners.weights import WeightsFolder

pytestmark = pytest.mark.slow

ONE_THREAD = 1  # sums in fp32 on several are not always taken in the same order
SKIPPING = {"request.num_inference_steps": 2, "guidance.video.skip_step": 1}


@pytest.fixture(scope="module")
def official(
    micro_weights: WeightsFolder, micro_case: Callable[..., Case], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[..., Run]]:
    """A run that stands for the official one of a release, made once: native has its bits."""
    threads = torch.get_num_threads()
    torch.set_num_threads(ONE_THREAD)

    @cache
    def make(release: str, **behaviours: bool) -> Run:
        out = tmp_path_factory.mktemp("official") / release
        case = micro_case({**SKIPPING, "reference": release})
        options = RunOptions(device=torch.device("cpu"), behaviours=behaviours)
        tracing = writing_trace("*", "sketch")
        run_to_folder(NativeRunner(micro_weights, options), case, micro_weights, options, out, Quiet(), tracing)
        document: dict[str, Any] = json.loads((out / RUN_FILE).read_text())
        (out / RUN_FILE).write_text(json.dumps({**document, "runner": "official"}))
        return read_run(out)

    yield make
    torch.set_num_threads(threads)


def test_each_change_is_measured_alone_and_all_are_accounted_for(
    official: Callable[..., Run], micro_weights: WeightsFolder, pictures: Path
) -> None:
    said: list[str] = []
    found = measured(official("1.0.0"), official("1.1.2"), micro_weights, pictures, said.append)
    assert said[0] == "native at 1.0.0" and "native at 1.0.0, vocoder_fp32 = true" in said and len(said) == 6
    sound = found.alone["vocoder_fp32"]
    assert (sound.first_tap, sound.taps_moved, sound.frames) == ("decode/waveform", 1, 0.0) and sound.audio > 1e-4
    assert found.alone["keyframe_spans_one_frame"].bit_equal  # this request has no picture
    assert found.alone["guided_passes_repeated"].bit_equal  # nor the sampler that sees it
    skipped = found.alone["negative_disables_skipped_modality"]
    assert (skipped.first_tap or "").startswith("denoise/001/uncond/") and skipped.audio > 0
    assert skipped.taps_unmatched > 0  # a modality left out leaves no taps
    assert found.together is not None and not found.together.bit_equal
    assert found.together.document() == found.total.document()
    assert found.explained and found.left["1.1.2"].bit_equal


def test_what_the_named_changes_do_not_explain_is_said(
    official: Callable[..., Run], micro_weights: WeightsFolder, pictures: Path
) -> None:
    odd = official("1.1.2", guidance_fp32=True)  # a release that is not what it says
    found = measured(official("1.0.0"), odd, micro_weights, pictures, lambda _: None)
    assert not found.explained and found.left["1.0.0"].bit_equal
    assert (found.left["1.1.2"].first_tap or "").startswith("denoise/000/guided/")


def test_other_weights_are_refused(official: Callable[..., Run], tiny_weights: WeightsFolder, pictures: Path) -> None:
    with pytest.raises(RunError, match="other weights"):
        measured(official("1.0.0"), official("1.1.2"), tiny_weights, pictures, lambda _: None)
