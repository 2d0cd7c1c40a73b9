"""Native has the bits of the official releases 1.1.2 and 1.2.0 on a CPU, at every tap and output.

Each request runs through the real release in a process of its own. PARITY_OFFICIAL_1_1_2 and PARITY_OFFICIAL_1_2_0 name
the checkouts, PARITY_PYTHON_1_2_0 an interpreter with transformers 5.8 to 5.14; a release without them is deselected
with that reason. Taps are compared by the checksums of their bytes.
"""

import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from parity.runs.child import ChildRunner
from parity.runs.execute import run_to_folder, writing_trace
from parity.runs.folder import Run, read_run
from parity.trace.file import read_trace
from runners.case import Case
from runners.clock import Quiet
from runners.forge.make import LORA_NAME
from runners.forge.presets import Preset
from runners.forge.weights import ForgedWeights
from runners.native.runner import NativeRunner
from runners.official.files import known_commit
from runners.protocol import RunOptions
from runners.weights import WeightsFolder
from tests.runners.conftest import Checkout
from tests.runners.native.test_exact_tier import DISTILLED, TWO_STAGE

pytestmark = pytest.mark.slow
CPU = torch.device("cpu")
BF16, FP32 = torch.bfloat16, torch.float32
V2A_OFF = {"switches.skip_v2a_cross_attn_for_video_gt": True}
FIRST = {"request.images": [{"path": "astronaut.png"}]}
WEAK_FIRST = {"request.images": [{"path": "astronaut.png", "strength": 0.55}]}
ELSEWHERE = {"request.images": [{"path": "coffee.jpg", "frame_idx": 5, "strength": 0.85}]}
BOTH = {"request.images": [*WEAK_FIRST["request.images"], *ELSEWHERE["request.images"]]}
TWO_LORAS = {"loras": [{"path": LORA_NAME, "strength": -0.25}, {"path": LORA_NAME, "strength": 0.75}]}
ONE_STEP = {"request.num_inference_steps": 1}
HQ = TWO_STAGE | {"pipeline": "two_stage_hq", "guidance.video.stg_scale": 0.0, "guidance.audio.stg_scale": 0.0}

REQUESTS: dict[str, tuple[torch.dtype, dict[str, Any]]] = {
    "text": (BF16, {}),
    "text-without-v2a": (BF16, V2A_OFF),
    "text-fp32": (FP32, {"request.frame_rate": 23.976}),
    "picture-first": (BF16, FIRST),
    "picture-first-without-v2a": (BF16, FIRST | V2A_OFF),
    "picture-first-below-1": (BF16, WEAK_FIRST),
    "picture-first-below-1-without-v2a-fp32": (FP32, WEAK_FIRST | V2A_OFF),
    "picture-elsewhere": (BF16, ELSEWHERE | {"request.num_frames": 17}),
    "two-pictures-without-v2a": (BF16, BOTH | V2A_OFF | {"request.num_frames": 17}),
    "two-pictures-fp32": (FP32, BOTH),
    "video-skips-steps": (BF16, FIRST | {"guidance.video.skip_step": 1, "request.num_inference_steps": 3}),
    "audio-skips-steps-without-v2a": (
        BF16,
        V2A_OFF | {"guidance.audio.skip_step": 1, "request.num_inference_steps": 3},
    ),
    "both-skip-steps-fp32": (
        FP32,
        {"guidance.video.skip_step": 1, "guidance.audio.skip_step": 2, "request.num_inference_steps": 3},
    ),
    "89-frames": (BF16, ONE_STEP | {"request.num_frames": 89, "request.width": 64}),
    "89-frames-and-a-picture-without-v2a": (BF16, ONE_STEP | FIRST | V2A_OFF | {"request.num_frames": 89}),
    "800-pixels-wide": (BF16, ONE_STEP | {"request.height": 32, "request.width": 800}),
    "two-loras": (BF16, ONE_STEP | TWO_LORAS),
    "two-loras-fp32": (FP32, ONE_STEP | TWO_LORAS),
    "fp8-cast-with-two-loras": (BF16, ONE_STEP | TWO_LORAS | {"quantization": "fp8_cast"}),
    "distilled": (BF16, DISTILLED | WEAK_FIRST),
    "distilled-without-v2a-fp32": (FP32, DISTILLED | V2A_OFF),
    "two-stage": (BF16, TWO_STAGE | BOTH | ONE_STEP),
    "two-stage-without-v2a": (BF16, TWO_STAGE | V2A_OFF | ONE_STEP),
    "two-stage-hq": (BF16, HQ | FIRST | ONE_STEP),
    "two-stage-hq-without-v2a-fp32": (FP32, HQ | V2A_OFF | ONE_STEP),
    "keyframes": (BF16, TWO_STAGE | BOTH | ONE_STEP | {"pipeline": "keyframes"}),
    "default-negative-prompt": (BF16, ONE_STEP | {"request.negative_prompt": None}),
    "no-guidance": (BF16, {"guidance.video": {}, "guidance.audio": {}}),
    "turned-picture-with-a-profile": (BF16, ONE_STEP | {"request.images": [{"path": "turned.jpg"}]}),
}
# Of checkpoints quantised beforehand, in bf16: 1.1.2 needs TensorRT-LLM for them, and official fp32 casts the weights.
SCALED: dict[str, dict[str, Any]] = {
    "one-stage": FIRST,
    "two-loras-without-v2a": ONE_STEP | TWO_LORAS | V2A_OFF,
    "distilled": DISTILLED | WEAK_FIRST,
    "two-stage-without-v2a": TWO_STAGE | V2A_OFF | ONE_STEP,
}


def gamma_1_8_profile() -> bytes:
    """A small ICC profile: the primaries of sRGB under D50, but a gamma of 1.8."""
    primaries = {
        b"rXYZ": (0.4361, 0.2225, 0.0139),
        b"gXYZ": (0.3851, 0.7169, 0.0971),
        b"bXYZ": (0.1431, 0.0606, 0.7141),
    }
    white = {b"wtpt": (0.9642, 1.0, 0.8249)}
    tags = {
        name: b"XYZ " + bytes(4) + struct.pack(">3i", *(round(value * 65536) for value in xyz))
        for name, xyz in (primaries | white).items()
    }
    tags |= dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), b"curv" + bytes(4) + struct.pack(">IHxx", 1, round(1.8 * 256)))
    tags[b"desc"] = b"desc" + bytes(4) + struct.pack(">I", 2) + b"g\0" + bytes(90)
    tags[b"cprt"] = b"text" + bytes(4) + b"CC0\0"
    table, body = struct.pack(">I", len(tags)), b""
    for name, data in tags.items():
        table += name + struct.pack(">II", 128 + 4 + 12 * len(tags) + len(body), len(data))
        body += data
    header = struct.pack(
        ">I4sI4s4s4s12s4s4s",
        128 + len(table) + len(body),
        b"",
        0x02100000,
        b"mntr",
        b"RGB ",
        b"XYZ ",
        bytes(12),
        b"acsp",
        b"",
    )
    header = header.ljust(68, b"\0") + struct.pack(">3i", 63190, 65536, 54061)
    return header.ljust(128, b"\0") + table + body


@pytest.fixture(scope="module")
def turned_picture(pictures: Path) -> Path:
    """A JPEG that lies on its side by its EXIF orientation, with a profile that is not sRGB."""
    with Image.open(pictures / "coffee.jpg") as picture:
        exif = Image.Exif()
        exif[0x0112] = 6  # orientation: a quarter turn clockwise is to be shown
        picture.save(pictures / "turned.jpg", quality=90, exif=exif, icc_profile=gamma_1_8_profile())
    return pictures / "turned.jpg"


@pytest.mark.parametrize("name", REQUESTS)
@pytest.mark.parametrize("release", ["1.1.2", "1.2.0"])
@pytest.mark.usefixtures("turned_picture")
def test_every_tap_and_output_has_the_bits_of_the_release(
    release: str,
    name: str,
    released_checkout: Checkout,
    micro_weights: WeightsFolder,
    micro_case: Callable[..., Case],
    tmp_path: Path,
) -> None:
    dtype, overrides = REQUESTS[name]
    case = micro_case({**overrides, "reference": release})
    official = official_run(released_checkout, micro_weights, case, dtype, tmp_path / "official")
    assert official.manifest.details["official_release"] == release
    assert official.manifest.details["official_commit"] == known_commit(release)
    assert different(official, native_run(micro_weights, case, dtype, tmp_path / "native")) == []


@pytest.mark.parametrize("name", SCALED)
@pytest.mark.parametrize("release", ["1.2.0"])
def test_products_of_e4m3_numbers_have_the_bits_of_the_release(
    release: str,
    name: str,
    released_checkout: Checkout,
    scaled_weights: WeightsFolder,
    micro_case: Callable[..., Case],
    tmp_path: Path,
) -> None:
    case = micro_case({**SCALED[name], "reference": release, "quantization": "fp8_scaled_mm"})
    official = official_run(released_checkout, scaled_weights, case, BF16, tmp_path / "official")
    assert different(official, native_run(scaled_weights, case, BF16, tmp_path / "native")) == []


@pytest.mark.parametrize("release", ["1.1.2", "1.2.0"])
def test_weights_made_on_the_spot_reach_the_release_without_a_file(
    release: str,
    released_checkout: Checkout,
    tiny_weights: WeightsFolder,
    micro_case: Callable[..., Case],
    tmp_path: Path,
) -> None:
    case = micro_case({**ONE_STEP, **FIRST, "reference": release})
    made = ForgedWeights("tiny", 0, CPU)
    official = official_run(released_checkout, made, case, BF16, tmp_path / "official")
    assert official.manifest.weights_hash == tiny_weights.hash
    assert different(official, native_run(tiny_weights, case, BF16, tmp_path / "native")) == []


@pytest.mark.parametrize("release", ["1.2.0"])
def test_the_decoders_memory_layout_is_the_releases_where_it_changes_bits(
    release: str,
    released_checkout: Checkout,
    forged: Callable[..., WeightsFolder],
    micro_case: Callable[..., Case],
    tmp_path: Path,
) -> None:
    weights = forged("wider_decoder", widen_decoder)  # in the micro decoder every layout gives the same bits
    case = micro_case({**ONE_STEP, "request.num_frames": 25, "reference": release})
    official = official_run(released_checkout, weights, case, FP32, tmp_path / "official")
    assert different(official, native_run(weights, case, FP32, tmp_path / "native")) == []
    other = native_run(weights, case, FP32, tmp_path / "other", {"decoder_chunked": False})
    assert different(official, other) == ["decode/frames", "video_frames"]


def widen_decoder(preset: Preset) -> None:
    """A small checkpoint with a decoder of more channels than `shrink_to_micro` leaves."""
    preset.config["transformer"].update(num_layers=2)
    preset.gemma["text_config"].update(num_hidden_layers=3, sliding_window_pattern=2)
    preset.config["vae"].update(decoder_base_channels=16)


def official_run(
    checkout: Checkout,
    weights: WeightsFolder | ForgedWeights,
    case: Case,
    dtype: torch.dtype,
    out: Path,
    device: torch.device = CPU,
) -> Run:
    """The real release's run of a case."""
    options = RunOptions(device=device, dtype=dtype)
    child = ChildRunner(
        python=checkout.python,
        name="official",
        weights=weights,
        options=options,
        beside=out,
        official_root=checkout.root,
        threads=1,
    )
    run_to_folder(child, case, weights, options, out, Quiet(), writing_trace("*", "sketch"))
    return read_run(out)


def native_run(
    weights: WeightsFolder,
    case: Case,
    dtype: torch.dtype,
    out: Path,
    behaviours: dict[str, bool] | None = None,
    device: torch.device = CPU,
) -> Run:
    """Ours."""
    options = RunOptions(device=device, dtype=dtype, behaviours=behaviours or {})
    run_to_folder(NativeRunner(weights, options), case, weights, options, out, Quiet(), writing_trace("*", "sketch"))
    return read_run(out)


def different(official: Run, native: Run) -> list[str]:
    """Names of taps and outputs that are missing or differ, in the order in which they were made."""
    theirs, ours = read_trace(official.folder), read_trace(native.folder)
    names = [name for name in theirs if name not in ours or not ours[name].same_bits(theirs[name])]
    names += [name for name in ours if name not in theirs]
    for name in ("video_frames", "audio_waveform", "video_latent", "audio_latent"):
        if not torch.equal(getattr(official.outputs(), name), getattr(native.outputs(), name)):
            names.append(name)
    return names if official.manifest.sigmas == native.manifest.sigmas else [*names, "sigmas"]
