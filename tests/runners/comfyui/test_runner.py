"""ComfyUI itself (PARITY_COMFYUI_PYTHON and _ROOT): its taps, how near to 1.2.0 it is, what a run says of it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from parity.runs.child import ChildRunner
from parity.runs.execute import run_to_folder, writing_trace
from parity.runs.folder import Run, read_run
from parity.taps.dataflow import Dataflow
from parity.trace.file import read_trace
from runners.case import Case, parse_case
from runners.clock import Quiet
from runners.native.runner import NativeRunner
from runners.protocol import RunOptions
from runners.weights import WeightsFolder, num_blocks

CPU = torch.device("cpu")
SWITCHES = {"noise": "official"}
OPTIONS = RunOptions(device=CPU, engine=SWITCHES)
V2A_OFF = {"switches.skip_v2a_cross_attn_for_video_gt": True}
FIRST_AND_LATER = [{"path": "astronaut.png", "strength": 0.5}, {"path": "coffee.jpg", "frame_idx": 5}]
HARMLESS_LEVELS = 2.0  # of 255; harmless variation moves frames of the tiny model by 1.1 in the mean

pytestmark = pytest.mark.slow


@pytest.fixture
def case(micro_case_text: str, pictures: Path) -> Callable[..., Case]:
    """The micro case at 1.2.0, with one list of perturbed blocks."""

    def make(overrides: dict[str, Any]) -> Case:
        fixed = {"reference": "1.2.0", "guidance.audio.stg_blocks": [1]}
        return parse_case(micro_case_text, pictures, {**fixed, **overrides})

    return make


def in_child(
    engine: tuple[Path, Path], case: Case, weights: WeightsFolder, out: Path, options: RunOptions = OPTIONS
) -> Run:
    python, root = engine
    child = ChildRunner(
        python=python, name="comfyui", weights=weights, options=options, beside=out, engine_root=root, threads=1
    )
    run_to_folder(child, case, weights, options, out, Quiet(), writing_trace("*", "sketch"))
    return read_run(out)


@pytest.mark.parametrize(
    "overrides",
    [{}, V2A_OFF, {"guidance.video.skip_step": 1, "request.images": FIRST_AND_LATER}],
    ids=["text", "text-without-v2a", "two-pictures-and-skipped-steps"],
)
def test_it_leaves_every_tap_of_a_case_and_no_other(
    comfyui: tuple[Path, Path], case: Callable[..., Case], tiny_weights: WeightsFolder, tmp_path: Path, overrides: Any
) -> None:
    asked = case(overrides)
    run = in_child(comfyui, asked, tiny_weights, tmp_path / "run")
    assert set(read_trace(run.folder)) == set(Dataflow(asked, num_blocks(tiny_weights)).taps)
    details = run.manifest.details
    assert details["candidate"] == [
        "ComfyUI 0.25.0 at 0a92ed1",
        "ComfyUI-LTXVideo at aceeae9",
        "attention pytorch",
        "noise official",
    ]
    assert not [component for component, found in details["loaded"].items() if found["missing"]]
    assert details["computed_in"] == {"transformer": "bfloat16", "vae": "bfloat16", "audio_vae": "float32"}


def test_from_the_official_noise_it_is_native_1_2_0_within_harmless_noise(
    comfyui: tuple[Path, Path], case: Callable[..., Case], tiny_weights: WeightsFolder, tmp_path: Path
) -> None:
    asked = case({})
    torch.set_num_threads(1)
    native = NativeRunner(tiny_weights, RunOptions(device=CPU))
    reference = run_to_folder(native, asked, tiny_weights, RunOptions(device=CPU), tmp_path / "native", Quiet())
    distance = {}
    for noise in ("official", "own"):
        options = RunOptions(device=CPU, engine={"noise": noise})
        frames = in_child(comfyui, asked, tiny_weights, tmp_path / noise, options).outputs().video_frames
        distance[noise] = (frames.float() - reference.video_frames.float()).abs().mean().item()
    assert distance["official"] < HARMLESS_LEVELS
    assert distance["own"] > 5 * HARMLESS_LEVELS  # it is laid out by channel: another sample of the same distribution


def edited(root: Path, copy: Path, name: str, old: str, new: str) -> Path:
    """A checkout in which one file differs and everything else is linked."""
    copy.mkdir()
    for path in root.iterdir():
        (copy / path.name).symlink_to(path)
    folder, *_ = Path(name).parts
    (copy / folder).unlink()
    (copy / folder).mkdir()
    for path in (root / folder).iterdir():
        (copy / folder / path.name).symlink_to(path)
    text = (root / name).read_text()
    assert text.count(old) == 1
    (copy / name).unlink()
    (copy / name).write_text(text.replace(old, new))
    return copy


def test_another_version_runs_and_is_named_and_so_is_a_vocoder_filled_from_elsewhere(
    comfyui: tuple[Path, Path], case: Callable[..., Case], tiny_weights: WeightsFolder, tmp_path: Path
) -> None:
    python, root = comfyui
    loaded = "        vae = comfy.sd.VAE(sd=sd, metadata=metadata)\n        vae.throw_exception_if_invalid()"
    other = "        sd = {k: v * 2 if k.startswith('vocoder.') else v for k, v in sd.items()}\n"
    copy = edited(root, tmp_path / "copy", "comfy_extras/nodes_lt_audio.py", loaded, other + loaded)
    run = in_child((python, copy), case({"request.num_inference_steps": 1}), tiny_weights, tmp_path / "run")
    version, nodes, *_, vocoder = run.manifest.details["candidate"]
    assert version == "ComfyUI 0.25.0, whose files are those of no version known here (0.25.0 at 0a92ed1)"
    assert nodes == "ComfyUI-LTXVideo at aceeae9"
    assert vocoder.startswith("vocoder holds other values than the checkpoint for 1")


def test_what_is_not_installed_is_one_sentence(
    comfyui: tuple[Path, Path], case: Callable[..., Case], tiny_weights: WeightsFolder, tmp_path: Path
) -> None:
    python, root = comfyui
    copy = edited(root, tmp_path / "copy", "comfy/sd.py", "import torch\n", "import torch\nimport not_there\n")
    with pytest.raises(Exception, match=r"cannot be imported by .*not_there.*docs/engines\.md"):
        in_child((python, copy), case({}), tiny_weights, tmp_path / "run")
    assert not (tmp_path / "run").exists()
