"""Native equals official bit for bit on a CPU: every tap and every output, end to end.

Where a tap of the two differs at all, a test fails; none is excused. CUDA is another matter: attention kernels may be
chosen by memory layout there. On a CPU one thing is left out, since no
program can hold it: a bf16 convolution whose stride leaves a few cells (encoder blocks `compress_space` and
`compress_all` on tiny pictures; the released configuration has none) does not always give the same bits for the same
numbers in PyTorch 2.13, called alone and twice, depending on where they lie in memory.
"""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from runners.case import Case
from runners.forge.make import LORA_NAME
from runners.forge.presets import Preset
from runners.native.request import sampling_params
from runners.native.runner import NativeRunner
from runners.official.runner import OfficialRunner
from runners.protocol import RunOptions
from runners.weights import WeightsFolder

pytestmark = pytest.mark.slow

CPU = torch.device("cpu")
OUTPUTS = ("video_frames", "audio_waveform", "video_latent", "audio_latent", "sigmas")
BF16, FP32 = torch.bfloat16, torch.float32
V2A_OFF = {"switches.skip_v2a_cross_attn_for_video_gt": True}
FIRST_FRAME = {"request.images": [{"path": "astronaut.png"}]}
TWO_PICTURES = {
    "request.images": [
        {"path": "astronaut.png", "strength": 0.6, "crf": 20},
        {"path": "coffee.jpg", "frame_idx": 5, "strength": 0.85},
    ]
}
UNGUIDED: dict[str, Any] = {"guidance.video": {}, "guidance.audio": {}}
DISTILLED = UNGUIDED | {
    "pipeline": "distilled",
    "request.height": 64,
    "request.width": 128,
    "stages.first.sigmas": [1.0, 0.6, 0.0],
}
TWO_STAGE = {"pipeline": "two_stage", "request.height": 128, "request.width": 64, "stages.second.sigmas": [0.8, 0.3, 0]}
TWO_LORAS = {"loras": [{"path": LORA_NAME, "strength": -0.25}, {"path": LORA_NAME, "strength": 0.75}]}

REQUESTS: dict[str, tuple[torch.dtype, dict[str, Any]]] = {
    "text": (BF16, {}),
    "two-pictures": (BF16, TWO_PICTURES | {"request.num_frames": 17}),
    "two-pictures-without-v2a-fp32": (FP32, TWO_PICTURES | V2A_OFF),
    "keyframe-before-first": (
        BF16,
        {
            "request.images": [
                {"path": "coffee.jpg", "frame_idx": 8, "crf": 0},
                {"path": "astronaut.png", "strength": 0.3},
            ]
        },
    ),
    "video-guided-only": (
        BF16,
        {"guidance.audio.cfg_scale": 1.0, "guidance.audio.stg_scale": 0.0, "guidance.audio.modality_scale": 1.0},
    ),
    "audio-guided-only": (
        BF16,
        {f"guidance.video.{k}": v for k, v in (("cfg_scale", 1.0), ("stg_scale", 0.0), ("modality_scale", 1.0))}
        | {"guidance.video.rescale_scale": 0.0},
    ),
    "no-guidance": (BF16, {"guidance.video": {}, "guidance.audio": {}}),
    "stg-alone-in-no-block": (
        BF16,
        {"guidance.video": {"stg_scale": 1.5}, "guidance.audio": {"stg_scale": 0.5, "stg_blocks": [0, 1]}},
    ),
    "stg-in-blocks-that-there-are-not": (
        BF16,
        {"guidance.video.stg_blocks": [1, 28], "guidance.audio.stg_blocks": [28]},
    ),
    "picture-first-and-video-skips-steps": (
        BF16,
        FIRST_FRAME
        | {"request.height": 96, "request.width": 64}
        | {"guidance.video.skip_step": 1, "request.num_inference_steps": 3},
    ),
    "audio-skips-steps-without-v2a-fp32": (
        FP32,
        V2A_OFF | {"guidance.audio.skip_step": 2, "request.num_inference_steps": 3},
    ),
    "both-skip-steps": (
        BF16,
        {"guidance.video.skip_step": 1, "guidance.audio.skip_step": 2, "request.num_inference_steps": 3},
    ),
    "distilled": (BF16, DISTILLED | TWO_PICTURES),
    "distilled-without-v2a-fp32": (FP32, DISTILLED | V2A_OFF),
    "two-stage": (BF16, TWO_STAGE | FIRST_FRAME | {"stages.second.lora_strength": 0.7}),
    "two-stage-with-a-lora-in-both": (
        BF16,
        TWO_STAGE | {"loras": [{"path": "ltx-2.3-distilled-lora.safetensors", "strength": 0.4}]},
    ),
    "two-stage-without-lora-fp32": (FP32, TWO_STAGE | {"stages.second.lora_strength": 0.0}),
    "keyframes": (BF16, TWO_STAGE | TWO_PICTURES | {"pipeline": "keyframes", "stages.first.sigmas": [1.0, 0.4, 0.0]}),
    "lora": (BF16, {"loras": [{"path": LORA_NAME, "strength": 0.5}]}),
    "picture-first-with-two-loras-fp32": (
        FP32,
        TWO_LORAS | FIRST_FRAME | {"request.seed": 2**40 + 7, "request.frame_rate": 23.976},
    ),
    "fp8-cast-with-two-loras": (BF16, TWO_LORAS | FIRST_FRAME | {"quantization": "fp8_cast"}),
    "default-negative-prompt": (BF16, {"request.negative_prompt": None, "guidance.video.cfg_scale": 1.5}),
}


def assert_same_bits(official: Any, native: Any) -> None:
    """Compare all taps and outputs of two runs."""
    assert official.taps.keys() == native.taps.keys()
    different = [
        f"{name} ({tensor.dtype} {tuple(tensor.shape)}, {native.taps[name].dtype} {tuple(native.taps[name].shape)})"
        for name, tensor in official.taps.items()
        if not same_bits(tensor, native.taps[name])
    ]
    assert not different, f"{len(different)} of {len(official.taps)} taps differ, first: {different[:5]}"
    for name in OUTPUTS:
        assert same_bits(getattr(official.outcome, name), getattr(native.outcome, name)), name
    assert official.outcome.sample_rate_hz == native.outcome.sample_rate_hz
    assert official.outcome.frame_rate == native.outcome.frame_rate


def same_bits(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Equal shape, dtype and bytes, NaN included."""
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    return torch.equal(a.contiguous().view(torch.uint8), b.contiguous().view(torch.uint8))


@pytest.mark.parametrize("name", REQUESTS)
def test_every_tap_and_output_has_the_official_bits(
    name: str,
    micro_weights: WeightsFolder,
    micro_case: Callable[..., Case],
    run: Callable[..., Any],
    official_run: Callable[..., Any],
) -> None:
    dtype, overrides = REQUESTS[name]
    case = micro_case(overrides)
    options = RunOptions(device=CPU, dtype=dtype)
    official = official_run(case, dtype)
    native = run(NativeRunner(micro_weights, options), case)
    assert_same_bits(official, native)
    assert official.taps["init/video"].dtype == dtype
    assert all(tensor.isfinite().all() for tensor in official.taps.values())


def test_a_run_with_the_flag_equals_the_official_run_without_v2a_tap_for_tap(
    micro_weights: WeightsFolder,
    micro_case: Callable[..., Case],
    run: Callable[..., Any],
    official_run: Callable[..., Any],
) -> None:
    case = micro_case(V2A_OFF)
    assert sampling_params(case).build_request_extra()["ltx2_skip_v2a_cross_attn_for_video_gt"] is True
    official = official_run(case, BF16)
    native = run(NativeRunner(micro_weights, RunOptions(device=CPU, dtype=BF16)), case)
    assert_same_bits(official, native)
    attended = {name.split("/")[2] for name in official.taps if name.endswith("video/av_attn")}
    assert attended == {"cond", "uncond", "perturbed"}
    assert not [name for name in official.taps if name.endswith("audio/av_attn")]  # nor native's: the names are equal


def other_sizes(preset: Preset) -> None:
    """Other heads, widths, depths and decoders, in the places where all of them are still 2.3's kind."""
    preset.config["transformer"].update(
        num_layers=3,
        num_attention_heads=3,
        attention_head_dim=40,
        cross_attention_dim=120,
        audio_num_attention_heads=2,
        audio_attention_head_dim=36,
        audio_cross_attention_dim=72,
        connector_num_attention_heads=5,
        connector_attention_head_dim=24,
        connector_num_layers=1,
        audio_connector_num_attention_heads=3,
        audio_connector_attention_head_dim=24,
        audio_connector_num_layers=2,
    )
    preset.config["vae"].update(decoder_base_channels=3, spatial_padding_mode="reflect")
    preset.config["audio_vae"]["model"]["params"]["ddconfig"].update(ch_mult=[1, 1, 2], num_res_blocks=2)
    preset.config["vocoder"]["vocoder"].update(
        upsample_rates=[10, 4, 4], upsample_kernel_sizes=[20, 8, 9], upsample_initial_channel=56
    )
    preset.config["vocoder"]["bwe"].update(
        upsample_rates=[8, 6, 5], upsample_kernel_sizes=[16, 12, 11], upsample_initial_channel=40
    )
    preset.gemma["text_config"].update(
        num_hidden_layers=4, hidden_size=60, num_attention_heads=3, num_key_value_heads=1, sliding_window=17
    )


def other_kinds(preset: Preset) -> None:
    """Every choice that a configuration leaves open and 2.3 makes the other way."""
    shrunk = preset.config
    shrunk["transformer"].update(
        num_layers=2,
        rope_type="interleaved",
        apply_gated_attention=False,
        connector_apply_gated_attention=False,
        timestep_scale_multiplier=900,
        positional_embedding_theta=5000.0,
    )
    del shrunk["transformer"]["frequencies_precision"]
    shrunk["vae"].update(
        decoder_base_channels=8,
        causal_decoder=True,
        timestep_conditioning=True,
        latent_log_var="constant",
        decoder_blocks=[
            ["res_x", {"num_layers": 1, "inject_noise": True}],
            ["compress_space", {"multiplier": 2}],
            ["compress_time", {"multiplier": 2}],
            ["res_x_y", {"multiplier": 1, "inject_noise": True}],
            ["compress_all", {"multiplier": 1, "residual": True}],
            ["compress_all", {"multiplier": 1}],
        ],
    )
    shrunk["audio_vae"]["model"]["params"]["ddconfig"].update(
        norm_type="group", causality_axis=None, mid_block_add_attention=True, attn_resolutions=[128]
    )
    shrunk["vocoder"] = {
        "resblock": "1",
        "stereo": True,
        "resblock_kernel_sizes": [3, 5],
        "resblock_dilation_sizes": [[1, 2, 3], [1, 3, 5]],
        "upsample_rates": [8, 5, 4],
        "upsample_kernel_sizes": [16, 11, 8],
        "upsample_initial_channel": 24,
        "output_sampling_rate": 16000,
    }
    preset.gemma["text_config"].update(num_hidden_layers=2, sliding_window_pattern=1)


@pytest.mark.parametrize("change", [other_sizes, other_kinds], ids=lambda change: change.__name__)
@pytest.mark.parametrize("dtype", [BF16, FP32], ids=str)
def test_other_checkpoints_have_the_official_bits_too(
    change: Callable[[Preset], None],
    dtype: torch.dtype,
    forged: Callable[..., WeightsFolder],
    micro_case: Callable[..., Case],
    run: Callable[..., Any],
) -> None:
    weights = forged(change.__name__, change)
    case = micro_case(TWO_PICTURES | {"request.width": 64})
    options = RunOptions(device=CPU, dtype=dtype)
    assert_same_bits(run(OfficialRunner(weights, options), case), run(NativeRunner(weights, options), case))
