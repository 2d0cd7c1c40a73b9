"""Steps replayed as CUDA graphs have the bits of steps computed one by one, whatever the passes of a step."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from parity.runs.execute import run_to_folder, writing_trace
from parity.runs.folder import read_run
from parity.trace.file import read_trace
from runners.case import Case
from runners.clock import Quiet
from runners.forge.weights import ForgedWeights
from runners.ltx23 import step_graph
from runners.native.runner import NativeRunner
from runners.protocol import Outcome, RunOptions

# A box's own torch may warn of things that the pinned one does not.
pytestmark = [pytest.mark.gpu, pytest.mark.filterwarnings("default")]

SIZE = {"request.height": 128, "request.width": 192, "request.num_frames": 17, "request.num_inference_steps": 8}
FORMS: dict[str, tuple[dict[str, Any], str]] = {  # a request, and what its run says of graphs
    "every step alike": ({}, "5 steps replayed, 1 forms captured"),  # the first two and the measured one are not
    "picture, V2A off": (
        {"request.images": [{"path": "astronaut.png"}], "switches.skip_v2a_cross_attn_for_video_gt": True},
        "5 steps replayed, 1 forms captured",
    ),
    "perturbed late": ({"guidance.video.stg_blocks": [1], "guidance.audio.stg_blocks": [1]}, "5 steps replayed, 1"),
    "audio skips every other step": ({"guidance.audio.skip_step": 1}, "4 steps replayed, 2 forms captured"),
    "both skip two of three": ({"guidance.video.skip_step": 2, "guidance.audio.skip_step": 2}, "0 steps replayed, 0"),
}


@pytest.fixture(scope="module")
def small() -> ForgedWeights:
    return ForgedWeights("small", 0, torch.device("cuda"))


def outcome(weights: ForgedWeights, case: Case) -> Outcome:
    with NativeRunner(weights, RunOptions(device=torch.device("cuda"))) as runner:
        return runner.run(case, Quiet())


@pytest.mark.parametrize("form", FORMS)
def test_replayed_steps_have_the_bits_of_computed_ones(
    form: str, small: ForgedWeights, micro_case: Callable[..., Case], monkeypatch: pytest.MonkeyPatch
) -> None:
    change, note = FORMS[form]
    case = micro_case(SIZE | change)
    monkeypatch.setattr(step_graph, "HOST_SHARE", 2.0)  # no host takes that much
    computed = outcome(small, case)
    assert "the host starts a step in" in computed.details["step_graphs"] or note.startswith("0 ")
    monkeypatch.setattr(step_graph, "HOST_SHARE", 0.0)  # as if the host never kept up
    replayed = outcome(small, case)
    assert replayed.details["step_graphs"].startswith(note)
    for name in ("video_frames", "audio_waveform", "video_latent", "audio_latent"):
        assert torch.equal(getattr(computed, name), getattr(replayed, name)), name
    assert len(replayed.step_s) == 8


def test_a_trace_of_replayed_steps_is_that_of_computed_ones(
    small: ForgedWeights, micro_case: Callable[..., Case], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    case = micro_case(SIZE | FORMS["perturbed late"][0])
    options = RunOptions(device=torch.device("cuda"))
    for name, share in (("computed", 2.0), ("replayed", 0.0)):
        monkeypatch.setattr(step_graph, "HOST_SHARE", share)
        taps = writing_trace("*", "sketch")
        run_to_folder(NativeRunner(small, options), case, small, options, tmp_path / name, Quiet(), taps)
    assert read_run(tmp_path / "replayed").manifest.details["step_graphs"].startswith("5 steps replayed, 1 forms")
    computed, replayed = read_trace(tmp_path / "computed"), read_trace(tmp_path / "replayed")
    assert list(computed) == list(replayed) and len(computed) > 8 * 60
    assert [name for name in computed if not computed[name].same_bits(replayed[name])] == []


def test_without_memory_for_a_graph_steps_are_computed(
    small: ForgedWeights, micro_case: Callable[..., Case], monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_room(*_: object) -> None:
        raise torch.OutOfMemoryError("nothing left")

    monkeypatch.setattr(step_graph, "HOST_SHARE", 0.0)
    monkeypatch.setattr(torch.cuda, "CUDAGraph", no_room)
    found = outcome(small, micro_case(SIZE))
    assert found.details["step_graphs"] == "a capture failed: nothing left"
