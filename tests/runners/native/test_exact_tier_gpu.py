"""On a GPU: native has the official bits in every tap, twice the same, and survives a full card and an interrupt."""

import gc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from parity.runs.execute import run_to_folder, writing_trace
from parity.runs.folder import read_run
from parity.trace.file import read_trace
from runners.case import Case
from runners.catalogue import open_runner
from runners.clock import Quiet
from runners.errors import OutOfMemoryError
from runners.forge.weights import ForgedWeights
from runners.protocol import RunOptions

# A box's own torch may warn of things that the pinned one does not.
pytestmark = [pytest.mark.gpu, pytest.mark.filterwarnings("default")]

OUTPUTS = ("video_frames", "audio_waveform", "video_latent", "audio_latent")
PICTURE: dict[str, Any] = {"request.images": [{"path": "astronaut.png"}]}
TWO_PICTURES = {"request.images": [{"path": "astronaut.png"}, {"path": "coffee.jpg", "frame_idx": 8, "strength": 0.8}]}
V2A_OFF = {"switches.skip_v2a_cross_attn_for_video_gt": True}
DISTILLED = PICTURE | {
    "pipeline": "distilled",
    "guidance.video": {},
    "guidance.audio": {},
    "stages.first.sigmas": [1.0, 0.6, 0.0],  # two steps, as the case says
}
LORA = {"loras": [{"path": "ltx-2.3-distilled-lora.safetensors", "strength": 0.4}]}
REQUESTS: dict[str, dict[str, Any]] = {
    "picture": PICTURE,
    "picture-without-v2a": PICTURE | V2A_OFF,
    "lora": LORA,
    "fp8-cast": PICTURE | {"quantization": "fp8_cast"},
    "fp8-cast-with-a-lora": LORA | {"quantization": "fp8_cast"},
    "distilled": DISTILLED,
    "distilled-without-v2a": DISTILLED | V2A_OFF,
    "two-stage": PICTURE | {"pipeline": "two_stage"},
    "two-stage-without-v2a": PICTURE | V2A_OFF | {"pipeline": "two_stage"},
    "two-stage-with-a-lora-in-both": LORA | {"pipeline": "two_stage"},
    "two-stage-hq": PICTURE | {"pipeline": "two_stage_hq", "guidance.video.stg_scale": 0.0},
    "keyframes": TWO_PICTURES | {"pipeline": "keyframes"},
}
SIZE = {"request.height": 128, "request.width": 192, "request.num_frames": 17}
MakeCase = Callable[..., Case]


@pytest.fixture(scope="module")
def options() -> RunOptions:
    return RunOptions(device=torch.device("cuda"))


@pytest.fixture(scope="module")
def small(options: RunOptions) -> ForgedWeights:
    weights = ForgedWeights("small", 0, options.device)
    assert weights.hash  # taken once, here: tests that fill the card mean the run, not this
    return weights


@pytest.fixture
def little_memory() -> Iterator[None]:
    """Only 96 MiB more than what is in use now."""
    gc.collect()  # or what an earlier test left in cycles is freed while this one runs, and makes room
    torch.cuda.empty_cache()
    free = torch.cuda.memory_allocated() + (96 << 20)
    torch.cuda.set_per_process_memory_fraction(free / torch.cuda.get_device_properties(0).total_memory)
    yield
    torch.cuda.set_per_process_memory_fraction(1.0)
    torch.cuda.empty_cache()


class Interrupting(Quiet):
    """Somebody presses Ctrl-C after the first step."""

    def step(self, index: int, count: int) -> None:
        raise KeyboardInterrupt


@pytest.mark.parametrize("request_id", REQUESTS)
def test_native_has_the_official_bits_in_every_tap_on_small(
    small: ForgedWeights, options: RunOptions, micro_case: MakeCase, run: Callable[..., Any], request_id: str
) -> None:
    case = micro_case(SIZE | REQUESTS[request_id])
    official = run(open_runner("official", small, options), case)
    native = run(open_runner("native", small, options), case)
    assert official.taps.keys() == native.taps.keys()
    assert len(official.taps) > 100
    different = [name for name, tensor in official.taps.items() if not torch.equal(tensor, native.taps[name])]
    assert different == []
    for name in OUTPUTS:
        assert torch.equal(getattr(official.outcome, name), getattr(native.outcome, name)), name


@pytest.mark.parametrize("runner", ["official", "native"])
def test_two_runs_give_the_same_bits(
    small: ForgedWeights, options: RunOptions, micro_case: MakeCase, run: Callable[..., Any], runner: str
) -> None:
    case = micro_case(SIZE | REQUESTS["picture"])
    first, again = (run(open_runner(runner, small, options), case) for _ in range(2))
    assert [name for name in first.taps if not torch.equal(first.taps[name], again.taps[name])] == []


@pytest.mark.parametrize("runner", ["official", "native"])
def test_a_full_card_is_named_leaves_no_run_and_holds_no_memory(
    small: ForgedWeights, options: RunOptions, micro_case: MakeCase, tmp_path: Path, little_memory: None, runner: str
) -> None:
    before = torch.cuda.memory_allocated()
    with pytest.raises(OutOfMemoryError, match="ran out of memory"):
        run_to_folder(open_runner(runner, small, options), micro_case(SIZE), small, options, tmp_path / "run", Quiet())
    assert list(tmp_path.iterdir()) == []
    assert torch.cuda.memory_allocated() - before <= 64 << 20


def test_a_full_card_is_named_where_weights_are_hashed(options: RunOptions, little_memory: None) -> None:
    with pytest.raises(OutOfMemoryError, match="ran out of memory while the weights were hashed"):
        assert ForgedWeights("small", 1, options.device).hash


@pytest.mark.parametrize("runner", ["official", "native"])
def test_an_interrupt_leaves_what_was_recorded_and_the_next_run_is_whole(
    small: ForgedWeights, options: RunOptions, micro_case: MakeCase, tmp_path: Path, runner: str
) -> None:
    case, out = micro_case(SIZE), tmp_path / "run"
    taps = writing_trace("*", "sketch")
    with pytest.raises(KeyboardInterrupt):
        run_to_folder(open_runner(runner, small, options), case, small, options, out, Interrupting(), taps)
    assert not out.exists()
    torn = read_trace(tmp_path / "run.crashed")
    assert not torn.complete
    run_to_folder(open_runner(runner, small, options), case, small, options, out, Quiet(), taps)
    whole = read_trace(read_run(out).folder)
    assert whole.complete and 0 < len(torn) < len(whole)
    assert [name for name in torn if torn[name].checksum != whole[name].checksum] == []
