"""Components of diffusers 0.39 for an LTX-2.3 checkpoint: configured from the checkpoint, filled from its tensors.

The sizes come from the checkpoint's configuration; what diffusers' own conversion fixes for LTX-2.3 is fixed here
too, also where the official code does otherwise (`final_act_fn`). Components are built as `from_pretrained` builds
them: with the run's dtype as torch's default, parameters without memory, buffers computed.
"""

import importlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from runners.diffusers.names import GEMMA, renaming_of
from runners.errors import CheckpointError, RunnerError
from runners.ltx23.audio_vae_config import AudioVaeConfig
from runners.ltx23.transformer_config import TextConnectorsConfig, TransformerConfig
from runners.ltx23.upsampler_config import UpsamplerConfig
from runners.ltx23.video_vae_config import VaeStage, VideoVaeConfig
from runners.ltx23.vocoder_config import ExtendedVocoderConfig, VocoderConfig, read_vocoder_config
from runners.model_files import TensorSource, UpsamplerFiles
from runners.renaming import LISTED
from runners.weights import Weights

Arguments = dict[str, Any]

CLASSES = {
    "transformer": ("diffusers", "LTX2VideoTransformer3DModel"),
    "connectors": ("diffusers.pipelines.ltx2", "LTX2TextConnectors"),
    "vae": ("diffusers", "AutoencoderKLLTX2Video"),
    "audio_vae": ("diffusers", "AutoencoderKLLTX2Audio"),
    "vocoder": ("diffusers.pipelines.ltx2", "LTX2VocoderWithBWE"),
}
# Of diffusers' conversion for LTX-2.3; the official scheduler has the same numbers.
SCHEDULER = {
    "use_dynamic_shifting": True,
    "base_shift": 0.95,
    "max_shift": 2.05,
    "base_image_seq_len": 1024,
    "max_image_seq_len": 4096,
    "shift_terminal": 0.1,
}
TRANSFORMER = "transformer"
_DIRECTION = {(1, 2, 2): "spatial", (2, 1, 1): "temporal", (2, 2, 2): "spatiotemporal"}


@dataclass(frozen=True)
class DiffusersComponents:
    """The parts that a pipeline is built of."""

    arguments: dict[str, Any]  # of the pipelines' constructors
    fill_transformer: Callable[[], None]  # gives the transformer its tensors; until then it holds no memory


def build_components(weights: Weights, device: torch.device, dtype: torch.dtype) -> DiffusersComponents:
    """Everything that the pipelines' constructors take, on `device` in `dtype`; the transformer is still empty.

    Raises: RunnerError for a configuration that diffusers cannot build; CheckpointError if tensors are missing, left
    over or of another shape, the transformer's too.
    """
    built = {name: (component, fill) for name, component, fill in _from_checkpoint(weights, device, dtype)}
    built["text_encoder"] = _text_encoder(weights, device, dtype)
    for name, (_, fill) in built.items():
        if name != TRANSFORMER:
            fill()
    arguments: dict[str, Any] = {name: component for name, (component, _) in built.items()}
    try:
        tokenizer_class = importlib.import_module("transformers").AutoTokenizer
        arguments["tokenizer"] = tokenizer_class.from_pretrained(
            str(weights.gemma_folder), local_files_only=True, trust_remote_code=False
        )
    except Exception as error:  # transformers raises whatever its parsers do
        raise CheckpointError(f"The tokenizer in {weights.gemma_folder} cannot be read: {error}") from error
    arguments["scheduler"] = importlib.import_module("diffusers").FlowMatchEulerDiscreteScheduler(**SCHEDULER)
    return DiffusersComponents(arguments, built[TRANSFORMER][1])


def build_transformer(weights: Weights, device: torch.device, dtype: torch.dtype) -> nn.Module:
    """The transformer alone, filled. Raises: as `build_components`."""
    for name, component, fill in _from_checkpoint(weights, device, dtype):
        if name == TRANSFORMER:
            fill()
            return component
    raise AssertionError(f"{TRANSFORMER} is one of {', '.join(CLASSES)}")


def build_upsampler(files: UpsamplerFiles, device: torch.device, dtype: torch.dtype) -> nn.Module:
    """The spatial upsampler, filled. Raises: ConfigError, CheckpointError."""
    config = UpsamplerConfig.from_dict(files.config)
    upsampler_class = importlib.import_module("diffusers.pipelines.ltx2.latent_upsampler").LTX2LatentUpsamplerModel
    with _as_from_pretrained(dtype):
        upsampler: nn.Module = upsampler_class(
            in_channels=config.in_channels,
            mid_channels=config.mid_channels,
            num_blocks_per_stage=config.num_blocks_per_stage,
            use_rational_resampler=config.rational_resampler,
        )
    keys = {name: name for name in files.tensors.shapes}  # the same in both
    _filling(upsampler, "upsampler", keys, files.tensors, device, dtype)()
    return upsampler


def component_arguments(config: Mapping[str, Any], hidden_width: int, num_hidden_states: int) -> dict[str, Arguments]:
    """Constructor arguments of every component in CLASSES.

    Args:
        config: the checkpoint's whole configuration.
        hidden_width: width of the language model.
        num_hidden_states: its layers and its embedding.
    Raises: RunnerError for what diffusers cannot build; ConfigError for what LTX-2.3 cannot be.
    """
    connectors = TextConnectorsConfig.from_dict(config, hidden_width=hidden_width, num_hidden_states=num_hidden_states)
    vocoder = read_vocoder_config(config["vocoder"])
    if not isinstance(vocoder, ExtendedVocoderConfig):
        raise _cannot_build("a vocoder without bandwidth extension")
    sound = config["audio_vae"].get("model", {}).get("params", {})
    hop_length = config["audio_vae"].get("preprocessing", {}).get("stft", {}).get("hop_length", 160)
    rate_hz = sound.get("sampling_rate", 16000)
    return {
        "transformer": _transformer(TransformerConfig.from_dict(config), rate_hz, hop_length),
        "connectors": _connectors(connectors),
        "vae": _video_vae(VideoVaeConfig.from_checkpoint(config)),
        "audio_vae": _audio_vae(AudioVaeConfig.from_dict(config["audio_vae"]), sound, rate_hz, hop_length),
        "vocoder": _vocoder(vocoder),
    }


def _from_checkpoint(
    weights: Weights, device: torch.device, dtype: torch.dtype
) -> Iterator[tuple[str, nn.Module, Callable[[], None]]]:
    text = weights.gemma_config["text_config"]
    arguments = component_arguments(weights.config, text["hidden_size"], text["num_hidden_layers"] + 1)
    keys = renaming_of(VideoVaeConfig.from_checkpoint(weights.config)).keys(weights.model.shapes)
    for name, (module, class_name) in CLASSES.items():
        component_class = getattr(importlib.import_module(module), class_name)
        with _as_from_pretrained(dtype):
            component: nn.Module = component_class(**arguments[name])
        if name == "audio_vae" and not any(key.startswith("encoder.") for key in keys[name]):
            component.encoder = nn.Identity()  # nothing in text and image to video reads it
        yield name, component, _filling(component, name, keys[name], weights.model, device, dtype)


def _text_encoder(weights: Weights, device: torch.device, dtype: torch.dtype) -> tuple[nn.Module, Callable[[], None]]:
    transformers = importlib.import_module("transformers")
    try:
        with _as_from_pretrained(dtype):
            gemma_config = transformers.Gemma3Config.from_dict(weights.gemma_config)
            text_encoder: Any = transformers.Gemma3ForConditionalGeneration(gemma_config)
    except Exception as error:  # a stranger's config can fail anywhere inside transformers
        raise CheckpointError(f"The Gemma folder's config.json does not describe a Gemma 3: {error}") from error
    ((component, keys),) = GEMMA.keys(weights.gemma.shapes).items()
    return text_encoder, _filling(text_encoder, component, keys, weights.gemma, device, dtype)


def _filling(
    component: nn.Module,
    name: str,
    keys: Mapping[str, str],
    source: TensorSource,
    device: torch.device,
    dtype: torch.dtype,
) -> Callable[[], None]:
    """The source of a component's tensors.

    Raises: CheckpointError unless each tensor has its place and each place its tensor.
    """
    wanted = component.state_dict()
    tied = {"lm_head.weight"} if name == "text_encoder" else set()
    _refuse(f"The checkpoint lacks tensors of diffusers' {name}", sorted(wanted.keys() - keys.keys() - tied))
    _refuse(f"diffusers' {name} has no place for", sorted(keys[key] for key in keys.keys() - wanted.keys()))
    other = sorted(keys[key] for key in keys if source.shapes[keys[key]] != tuple(wanted[key].shape))
    _refuse(f"diffusers' {name} has other shapes for", other)

    def fill() -> None:
        stored = source.read(list(keys.values()), device)
        # Popped one by one, so that two copies of a large component never stand side by side.
        values = {key: stored.pop(there).to(dtype) for key, there in keys.items()}
        component.load_state_dict(values, strict=not tied, assign=True)
        if tied:
            component.tie_weights()  # type: ignore[operator]
        component.to(device).eval().requires_grad_(False)  # buffers were computed on the CPU

    return fill


def _refuse(problem: str, names: Sequence[str]) -> None:
    if names:
        more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
        raise CheckpointError(f"{problem}: {', '.join(names[:LISTED])}{more}. Take a whole LTX-2.3 checkpoint.")


@contextmanager
def _as_from_pretrained(dtype: torch.dtype) -> Iterator[None]:
    """Construction as `from_pretrained(torch_dtype=dtype)` does: even buffers that no file fills are in `dtype`."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with importlib.import_module("accelerate").init_empty_weights():
            yield
    finally:
        torch.set_default_dtype(before)


def _transformer(config: TransformerConfig, rate_hz: int, hop_length: int) -> Arguments:
    video, audio = config.video, config.audio
    return {
        "in_channels": video.in_channels,
        "out_channels": video.out_channels,
        "num_attention_heads": video.heads,
        "attention_head_dim": video.head_width,
        "cross_attention_dim": video.width,
        "pos_embed_max_pos": video.max_positions[0],
        "base_height": video.max_positions[1],
        "base_width": video.max_positions[2],
        "gated_attn": config.gated_attention,
        "cross_attn_mod": True,
        "audio_in_channels": audio.in_channels,
        "audio_out_channels": audio.out_channels,
        "audio_num_attention_heads": audio.heads,
        "audio_attention_head_dim": audio.head_width,
        "audio_cross_attention_dim": audio.width,
        "audio_pos_embed_max_pos": audio.max_positions[0],
        "audio_sampling_rate": rate_hz,
        "audio_hop_length": hop_length,
        "audio_gated_attn": config.gated_attention,
        "audio_cross_attn_mod": True,
        "num_layers": config.num_layers,
        "norm_eps": config.norm_eps,
        "rope_theta": config.rotary.theta,
        "rope_double_precision": config.rotary.precision == "float64",
        "rope_type": config.rotary.kind,
        "timestep_scale_multiplier": config.timestep_scale,
        "cross_attn_timestep_scale_multiplier": config.cross_gate_timestep_scale,
        "use_prompt_embeddings": False,
        "perturbed_attn": True,
    }


def _connectors(config: TextConnectorsConfig) -> Arguments:
    if config.video.max_position != config.audio.max_position:
        raise _cannot_build("connectors with different rotary ranges")
    arguments: Arguments = {
        "caption_channels": config.hidden_width,
        "text_proj_in_factor": config.num_hidden_states,
        "connector_rope_base_seq_len": config.video.max_position,
        "rope_theta": config.video.rotary.theta,
        "rope_double_precision": config.video.rotary.precision == "float64",
        "rope_type": config.video.rotary.kind,
        "per_modality_projections": True,
        "proj_bias": True,
    }
    for stream, connector in (("video", config.video), ("audio", config.audio)):
        arguments |= {
            f"{stream}_connector_num_attention_heads": connector.heads,
            f"{stream}_connector_attention_head_dim": connector.head_width,
            f"{stream}_connector_num_layers": connector.num_layers,
            f"{stream}_connector_num_learnable_registers": connector.num_registers,
            f"{stream}_gated_attn": connector.gated_attention,
            f"{stream}_hidden_dim": connector.width,
        }
    return arguments


def _video_vae(config: VideoVaeConfig) -> Arguments:
    if config.norm_layer != "pixel_norm" or config.latent_log_var != "uniform" or config.timestep_conditioning:
        raise _cannot_build("a video VAE with other than pixel_norm, uniform log variance and no timestep")
    down, down_layers = _levels(config.encoder_stages(), "encoder", "_res")
    up, up_layers = _levels(config.decoder_stages(), "decoder", "")
    frames, height, width = config.decoder_scale()
    if height != width:
        raise _cannot_build("a video VAE that scales height and width differently")
    # Decoder lists are given from the pixel end and turned round inside, all but `upsample_type`.
    return {
        "in_channels": config.in_channels,
        "out_channels": config.out_channels,
        "latent_channels": config.latent_channels,
        "block_out_channels": tuple(stage.out_channels for stage in down),
        "down_block_types": ("LTX2VideoDownBlock3D",) * len(down),
        "layers_per_block": tuple(down_layers),
        "spatio_temporal_scaling": (True,) * len(down),
        "downsample_type": tuple(_DIRECTION[stage.block.stride] for stage in down),
        "decoder_block_out_channels": tuple(stage.in_channels for stage in reversed(up)),
        "decoder_layers_per_block": tuple(reversed(up_layers)),
        "decoder_spatio_temporal_scaling": (True,) * len(up),
        "decoder_inject_noise": (False,) * len(up_layers),
        "upsample_type": tuple(_DIRECTION[stage.block.stride] for stage in up),
        "upsample_residual": tuple(stage.block.residual for stage in reversed(up)),
        "upsample_factor": tuple(stage.block.multiplier for stage in reversed(up)),
        "patch_size": config.patch_size,
        "timestep_conditioning": False,
        "encoder_causal": True,
        "decoder_causal": config.causal_decoder,
        "encoder_spatial_padding_mode": config.encoder_padding,
        "decoder_spatial_padding_mode": config.decoder_padding,
        "spatial_compression_ratio": height,
        "temporal_compression_ratio": frames,
    }


def _levels(stages: Sequence[VaeStage], half: str, suffix: str) -> tuple[list[VaeStage], list[int]]:
    """The resampling stages in running order, and the residual blocks before, between and after them."""
    resampling: list[VaeStage] = []
    layers = [0]
    for stage in stages:
        kind = stage.block.kind
        if kind == "res_x" and not stage.block.inject_noise:
            layers[-1] += stage.block.num_layers
        elif kind in {f"compress_{axes}{suffix}" for axes in ("time", "space", "all")}:
            resampling.append(stage)
            layers.append(0)
        else:
            raise _cannot_build(f"the block {kind} of vae.{half}_blocks")
    return resampling, layers


def _audio_vae(config: AudioVaeConfig, params: Mapping[str, Any], rate_hz: int, hop_length: int) -> Arguments:
    sizes = params.get("ddconfig", {})
    return {
        "base_channels": config.ch,
        "output_channels": config.out_ch,
        "ch_mult": config.ch_mult,
        "num_res_blocks": config.num_res_blocks,
        "attn_resolutions": tuple(sorted(config.attn_resolutions)) or None,
        "in_channels": sizes.get("in_channels", 2),
        "resolution": config.resolution,
        "latent_channels": config.z_channels,
        "norm_type": config.norm_type,
        "causality_axis": config.causality_axis or "none",
        "mid_block_add_attention": config.mid_block_add_attention,
        "sample_rate": rate_hz,
        "mel_hop_length": hop_length,
        "mel_bins": config.mel_bins,
        "double_z": sizes.get("double_z", True),
    }


def _vocoder(config: ExtendedVocoderConfig) -> Arguments:
    return {
        **_generator(config.vocoder, ""),
        **_generator(config.extension, "bwe_"),
        "filter_length": config.n_fft,
        "hop_length": config.hop_length,
        "window_length": config.n_fft,
        "input_sampling_rate": config.vocoder.output_sampling_rate_hz,
        "output_sampling_rate": config.extension.output_sampling_rate_hz,
    }


def _generator(config: VocoderConfig, prefix: str) -> Arguments:
    return {
        f"{prefix}hidden_channels": config.upsample_initial_channel,
        f"{prefix}upsample_kernel_sizes": list(config.upsample_kernel_sizes),
        f"{prefix}upsample_factors": list(config.upsample_rates),
        f"{prefix}resnet_kernel_sizes": list(config.resblock_kernel_sizes),
        f"{prefix}resnet_dilations": [list(dilations) for dilations in config.resblock_dilation_sizes],
        # diffusers' conversion gives the first generator no final activation; the official one clamps to [-1, 1]
        f"{prefix}final_act_fn": "tanh" if config.final_activation == "tanh" else None,
        f"{prefix}final_bias": config.use_bias_at_final,
    }


def _cannot_build(what: str) -> RunnerError:
    return RunnerError(f"Runner 'diffusers' cannot build {what}; run this checkpoint with official or native.")
