"""Checkpoints, pictures, cases and runs that tests of several modules share; all made here, nothing fetched."""

import gc
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import FrameType, ModuleType
from typing import Any
from unittest.mock import patch

import pytest
import torch
from torch import Tensor
from typer import testing

from parity.cli.threads import DEFAULT_THREADS
from runners.case import Case, parse_case
from runners.clock import Quiet
from runners.errors import CheckpointError
from runners.forge import make, scales
from runners.forge.presets import Preset, preset_named
from runners.official.compat import prepare_imports
from runners.official.runner import OfficialRunner
from runners.protocol import Outcome, RunOptions
from runners.tap import listening
from runners.weights import WeightsFolder
from tests import warm_python

prepare_imports()  # before any test imports official audio code
from ltx_core.model.audio_vae import vocoder as official_vocoder  # noqa: E402

# As every verb does, so that runs of both have the same bits; and products in fp32 on several threads are not always
# summed in the same order, not even by one program twice.
torch.set_num_threads(DEFAULT_THREADS)
gc.disable()  # until everything is collected: what imports make lives on
testing._get_command = cache(testing._get_command)  # type: ignore[attr-defined]  # all verbs, which no call changes
_official_filter, _official_shape = official_vocoder.kaiser_sinc_filter1d, cache(official_vocoder.kaiser_sinc_filter1d)


def _filter_or_shape(*design: Any, **named: Any) -> Tensor:
    """The official filter; on the meta device, where it holds no number, that of the last time.

    An official run lays its vocoder out there before it loads it, with the same few filters a hundred times, which took
    a quarter of a micro run.
    """
    make = _official_shape if torch.get_default_device().type == "meta" else _official_filter
    found: Tensor = make(*design, **named)
    return found


official_vocoder.kaiser_sinc_filter1d = _filter_or_shape

Forge = Callable[..., WeightsFolder]  # name, change of the configuration in place, preset="odd"

# 0.2 s of sound, 5 latent frames: where bf16 has no instructions, decoding them takes two fifths of a run.
MICRO_CASE = """
id = "micro"
pipeline = "one_stage"
[request]
prompt = "An astronaut waves at the camera and says hello."
negative_prompt = "blurry, silent"
seed = 10
height = 64
width = 96
num_frames = 9
frame_rate = 45.0
num_inference_steps = 2
[guidance.video]
cfg_scale = 3.0
stg_scale = 1.0
rescale_scale = 0.7
modality_scale = 3.0
stg_blocks = [1]
[guidance.audio]
cfg_scale = 7.0
stg_scale = 1.0
rescale_scale = 0.7
modality_scale = 3.0
stg_blocks = [0]
"""


@pytest.fixture(autouse=True)
def same_draws() -> None:
    """A test draws the same numbers whichever tests ran before it, and fails again when run alone."""
    torch.manual_seed(0)


@pytest.fixture(scope="module", autouse=True)
def old_objects_frozen() -> None:
    """Every run collects garbage; what imports left behind need not be walked each time, which took 0.25 s."""
    gc.collect()
    gc.freeze()


@dataclass(frozen=True, kw_only=True)
class Executed:
    """A finished run: every tap under its name, and what came out."""

    taps: dict[str, Tensor]
    outcome: Outcome


def execute(runner: Any, case: Case) -> Executed:
    """Run a case with every tap kept."""
    taps: dict[str, Tensor] = {}

    def keep(name: str, tensor: Tensor) -> None:
        assert name not in taps, f"tap {name} is heard twice"
        taps[name] = tensor.detach().clone()

    with runner as entered, listening(keep):
        outcome = entered.run(case, Quiet())
    return Executed(taps=taps, outcome=outcome)


def shrink_to_micro(preset: Preset) -> None:
    """Two blocks, three Gemma layers, the narrower connector the deeper, thin decoders: a run takes half a second."""
    preset.config["transformer"].update(
        num_layers=2,
        num_attention_heads=3,
        cross_attention_dim=96,
        connector_attention_head_dim=32,
        audio_num_attention_heads=2,
        audio_cross_attention_dim=48,
        audio_connector_attention_head_dim=24,
        connector_num_layers=1,
        audio_connector_num_layers=2,
    )
    preset.config["vae"].update(decoder_base_channels=4)
    preset.config["audio_vae"]["model"]["params"]["ddconfig"].update(ch_mult=[1, 1, 1], num_res_blocks=0)
    preset.config["vocoder"]["vocoder"].update(
        upsample_rates=[8, 5, 4], upsample_kernel_sizes=[16, 11, 8], upsample_initial_channel=24
    )
    preset.config["vocoder"]["bwe"].update(
        upsample_rates=[16, 15], upsample_kernel_sizes=[20, 17], upsample_initial_channel=12
    )
    preset.gemma["text_config"].update(
        num_hidden_layers=3,
        sliding_window_pattern=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        intermediate_size=88,
    )


@pytest.fixture(scope="session")
def forged(tmp_path_factory: pytest.TempPathFactory) -> Forge:
    """Forge a checkpoint from a preset, `odd` unless named, with its configuration changed in place.

    The odd one shows what the equal head counts of `tiny` and of the released file hide.
    """
    root = tmp_path_factory.mktemp("weights")
    recipe_of = scales.recipe_of

    def recipe_or_default(name: str, shape: tuple[int, ...]) -> Any:
        try:
            return recipe_of(name, shape)
        except CheckpointError:  # parts that no preset has, such as a timestep-conditioned decoder
            return scales.Spread(std=0.3)

    def forge_changed(
        name: str,
        change: Callable[[Preset], None],
        preset: str = "odd",
        quantization: make.Prequantized | None = None,
    ) -> WeightsFolder:
        if (root / name).exists():
            return WeightsFolder(root / name)

        def changed(_: str) -> Preset:
            sizes = preset_named(preset)
            change(sizes)
            return sizes

        with patch.object(make, "preset_named", changed), patch.object(scales, "recipe_of", recipe_or_default):
            return WeightsFolder(make.forge(name, 0, root / name, quantization=quantization))

    return forge_changed


@pytest.fixture(scope="session")
def tiny_weights(forged: Forge) -> WeightsFolder:
    """The tiny preset as users forge it."""
    return forged("tiny", lambda _: None, "tiny")


@pytest.fixture(scope="session")
def odd_weights(forged: Forge) -> WeightsFolder:
    """The odd preset as users forge it."""
    return forged("odd", lambda _: None)


@pytest.fixture(scope="session")
def micro_weights(forged: Forge) -> WeightsFolder:
    """A checkpoint with odd ratios, still smaller than `odd`."""
    return forged("micro", shrink_to_micro)


@pytest.fixture(scope="session")
def scaled_weights(forged: Forge) -> WeightsFolder:
    """The micro checkpoints quantised beforehand, for `fp8_scaled_mm`; their second block is."""
    return forged("scaled", shrink_to_micro, quantization="fp8_scaled_mm")


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two real photographs: astronaut.png of odd sides, and coffee.jpg."""
    import skimage.data
    from PIL import Image

    folder = tmp_path_factory.mktemp("case")
    Image.fromarray(skimage.data.astronaut()[:301, 100:357]).save(folder / "astronaut.png")
    Image.fromarray(skimage.data.coffee()[100:300, 50:400]).save(folder / "coffee.jpg", quality=92)
    return folder


@pytest.fixture(scope="session")
def micro_case_text() -> str:
    """The micro case as the text of its file; it has no picture."""
    return MICRO_CASE


@pytest.fixture(scope="session")
def micro_case(pictures: Path) -> Callable[..., Case]:
    """Make the micro case with dotted keys overridden; pictures are found in `pictures`."""

    def make_case(overrides: dict[str, Any] | None = None) -> Case:
        return parse_case(MICRO_CASE, pictures, overrides)

    return make_case


@pytest.fixture(scope="session")
def official_run(micro_weights: WeightsFolder) -> Callable[..., Executed]:
    """The official run of a case of the micro model, made once and shared; nobody may change its tensors."""

    @cache
    def made(case: Case, dtype: torch.dtype = torch.bfloat16) -> Executed:
        return execute(OfficialRunner(micro_weights, RunOptions(device=torch.device("cpu"), dtype=dtype)), case)

    return made


@pytest.fixture(scope="session")
def run() -> Callable[[Any, Case], Executed]:
    """Run a case on a runner with every tap kept."""
    return execute


@pytest.fixture(scope="session")
def warm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """An interpreter that has torch and the native model already; one for all processes that run tests."""
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent
    with warm_python.interpreter(folder / "warm") as path:
        yield path


def pytest_collection_finish() -> None:
    """Collect garbage again, of tests alone."""
    gc.freeze()
    gc.set_threshold(100_000, 10, 10)  # as `parity` has it
    gc.enable()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with slow tests begin, so that two processes end together; `gpu` says why it does not run without one."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)
    if torch.cuda.is_available():
        return
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device; run with `make test-gpu` on one"))


@pytest.fixture
def interrupting() -> Callable[..., AbstractContextManager[list[int]]]:
    """Ctrl-C at the n-th line that given modules run while inside; yields the lines run, and 0 interrupts none."""

    @contextmanager
    def at_line(place: int, *modules: ModuleType) -> Iterator[list[int]]:
        files, ran = {module.__file__ for module in modules}, list[int]()

        def at_each_line(frame: FrameType, event: str, _: object) -> Any:
            if frame.f_code.co_filename not in files:
                return None
            if event == "line":
                ran.append(frame.f_lineno)
                if len(ran) == place:
                    raise KeyboardInterrupt
            return at_each_line

        before = sys.gettrace()
        sys.settrace(at_each_line)
        try:
            yield ran
        finally:
            sys.settrace(before)

    return at_line
