"""A checkpoint as SGLang 0.5.23 wants it: a folder of components, each with its configuration and its tensors.

SGLang does not read the official single file. Its public overlay rewrites it the way that is done here: names by the
table in `runners.sglang.names`, values untouched, configurations from the checkpoint's own. What the overlay fixes
beside them is fixed here, too: positions are rounded to the model's dtype, as in release 1.0.0.
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import torch
from safetensors.torch import save_file

from runners.errors import RunnerError
from runners.ltx23.audio_vae_config import AudioVaeConfig
from runners.ltx23.transformer_config import TextConnectorsConfig, TransformerConfig
from runners.ltx23.video_vae_config import VideoVaeConfig
from runners.ltx23.vocoder_config import ExtendedVocoderConfig, read_vocoder_config
from runners.model_files import TensorSource
from runners.sglang.names import COPIES, IMAGE_ENCODER, RENAMING
from runners.weights import Weights, WeightsFolder

Document = dict[str, Any]

TEXT_ENCODER: Final = "text_encoder"
TOKENIZER: Final = "tokenizer"
SHARD_BYTES: Final = 4 << 30  # of tensors held at once
CLASSES: Final = {
    "transformer": ("diffusers", "LTX2VideoTransformer3DModel"),
    "connectors": ("diffusers", "LTX2TextConnectors"),
    "vae": ("diffusers", "AutoencoderKLLTX2Video"),
    "audio_vae": ("diffusers", "AutoencoderKLLTX2Audio"),
    "vocoder": ("diffusers", "LTX2Vocoder"),
    "scheduler": ("diffusers", "FlowMatchEulerDiscreteScheduler"),
    TEXT_ENCODER: ("transformers", "Gemma3ForConditionalGeneration"),
    TOKENIZER: ("transformers", "GemmaTokenizerFast"),
}
SCHEDULER: Final[Document] = {  # read, but the pipeline computes its sigmas itself
    "base_image_seq_len": 1024,
    "base_shift": 0.95,
    "max_image_seq_len": 4096,
    "max_shift": 2.05,
    "num_train_timesteps": 1000,
    "shift_terminal": 0.1,
    "use_dynamic_shifting": True,
}


def materialize(weights: Weights, folder: Path) -> None:
    """Write a checkpoint into `folder`, which must not exist, as SGLang's folder of components.

    Gemma's files are linked where they are files, since their names stay.

    Raises: CheckpointError for a tensor without a place; RunnerError for a configuration that SGLang cannot build.
    """
    documents = configurations(weights)
    folder.mkdir(parents=True)
    _write_json(
        folder / "model_index.json",
        {"_class_name": "LTX2Pipeline", "_diffusers_version": "0.37.0"} | {k: list(v) for k, v in CLASSES.items()},
    )
    for component, document in documents.items():
        (folder / component).mkdir(parents=True, exist_ok=True)
        name = "scheduler_config.json" if component == "scheduler" else "config.json"
        _write_json(folder / component / name, document)
    for component, keys in places(weights.model.shapes).items():
        # SGLang looks for the encoder's tensors in one file of this name.
        limit = 1 << 62 if component == IMAGE_ENCODER else SHARD_BYTES
        _write_tensors(folder / component, keys, weights.model, limit)
    _write_gemma(weights, folder)


def places(names: Mapping[str, Any]) -> dict[str, dict[str, str]]:
    """For each component its keys, copies among them, each with the checkpoint name that fills it.

    Raises: CheckpointError for a name without a place.
    """
    found = RENAMING.keys(names)
    for name, component, key in COPIES:
        if name in names:
            found[component][key] = name
    return found


def configurations(weights: Weights) -> dict[str, Document]:
    """The configuration of every component that has one of ours. Raises: RunnerError for what SGLang cannot build."""
    config = weights.config
    text = weights.gemma_config["text_config"]
    vae = VideoVaeConfig.from_checkpoint(config)
    if not isinstance(read_vocoder_config(config["vocoder"]), ExtendedVocoderConfig):
        raise _cannot_build("a vocoder without bandwidth extension")
    connectors = TextConnectorsConfig.from_dict(
        config, hidden_width=text["hidden_size"], num_hidden_states=text["num_hidden_layers"] + 1
    )
    documents = {
        "transformer": _transformer(config["transformer"], TransformerConfig.from_dict(config)),
        "connectors": _connectors(connectors),
        "vae": _video_vae(config["vae"], vae),
        IMAGE_ENCODER: config["vae"],
        "audio_vae": _audio_vae(config["audio_vae"], AudioVaeConfig.from_dict(config["audio_vae"])),
        "vocoder": {"vocoder": config["vocoder"]},
        "scheduler": SCHEDULER,
    }
    return {
        component: document | {"_class_name": CLASSES[component][1]} if component in CLASSES else document
        for component, document in documents.items()
    }


def _transformer(section: Document, config: TransformerConfig) -> Document:
    return section | {
        "audio_in_channels": config.audio.in_channels,
        "double_precision_rope": config.rotary.precision == "float64",
        "force_sdpa_v2a_cross_attention": True,
        "ltx_variant": "ltx_2_3",
        "quantize_video_rope_coords_to_hidden_dtype": True,
    }


def _connectors(config: TextConnectorsConfig) -> Document:
    video, audio = config.video, config.audio
    if video.max_position != audio.max_position or video.gated_attention != audio.gated_attention:
        raise _cannot_build("connectors whose streams differ in rotary range or gates")
    document: Document = {
        "caption_channels": config.hidden_width,
        "text_proj_in_factor": config.num_hidden_states,
        "feature_extractor_in_features": config.hidden_width * config.num_hidden_states,
        "connector_apply_gated_attention": video.gated_attention,
        "connector_rope_base_seq_len": video.max_position,
        "rope_double_precision": video.rotary.precision == "float64",
        "rope_theta": video.rotary.theta,
        "rope_type": video.rotary.kind,
        "causal_temporal_positioning": False,
    }
    for stream, connector in (("video", video), ("audio", audio)):
        document |= {
            f"{stream}_connector_attention_head_dim": connector.head_width,
            f"{stream}_connector_num_attention_heads": connector.heads,
            f"{stream}_connector_num_layers": connector.num_layers,
            f"{stream}_connector_num_learnable_registers": connector.num_registers,
            f"{stream}_feature_extractor_out_features": connector.width,
        }
    return document


def _video_vae(section: Document, config: VideoVaeConfig) -> Document:
    if config.norm_layer != "pixel_norm" or config.timestep_conditioning:
        raise _cannot_build("a video VAE with other than pixel_norm and no timestep")
    frames, height, width = config.decoder_scale()
    if height != width:
        raise _cannot_build("a video VAE that scales height and width differently")
    return {
        "condition_encoder_subdir": IMAGE_ENCODER.removeprefix("vae/"),
        "in_channels": config.in_channels,
        "latent_channels": config.latent_channels,
        "ltx_variant": "ltx_2_3",
        "out_channels": config.out_channels,
        "patch_size": config.patch_size,
        "spatial_compression_ratio": height,
        "temporal_compression_ratio": frames,
        "video_decoder_config": section,
        "video_decoder_variant": "ltx_2_3",
        # The VAE builds an encoder of its own, which stays empty: the pipeline asks the one in the subfolder. Of the
        # other variant it would be LTX-2.0's, a billion parameters of nothing.
        "video_encoder_config": section,
        "video_encoder_variant": "ltx_2_3_condition",
    }


def _audio_vae(section: Document, config: AudioVaeConfig) -> Document:
    params = section.get("model", {}).get("params", {})
    sizes = params.get("ddconfig", {})
    stft = section.get("preprocessing", {}).get("stft", {})
    return {
        "attn_resolutions": sorted(config.attn_resolutions) or None,
        "base_channels": config.ch,
        "causality_axis": config.causality_axis or "none",
        "ch_mult": list(config.ch_mult),
        "double_z": sizes.get("double_z", True),
        "in_channels": sizes.get("in_channels", 2),
        "is_causal": stft.get("causal", True),
        "latent_channels": config.z_channels,
        "mel_bins": config.mel_bins,
        "mel_hop_length": stft.get("hop_length", 160),
        "mid_block_add_attention": config.mid_block_add_attention,
        "norm_type": config.norm_type,
        "num_res_blocks": config.num_res_blocks,
        "output_channels": config.out_ch,
        "resolution": config.resolution,
        "sample_rate": params.get("sampling_rate", 16000),
    }


def _write_gemma(weights: Weights, folder: Path) -> None:
    (folder / TOKENIZER).symlink_to(weights.gemma_folder.resolve(), target_is_directory=True)
    if isinstance(weights, WeightsFolder):
        (folder / TEXT_ENCODER).symlink_to(weights.gemma_folder.resolve(), target_is_directory=True)
        return
    (folder / TEXT_ENCODER).mkdir()
    _write_json(folder / TEXT_ENCODER / "config.json", weights.gemma_config)
    names = {name: name for name in weights.gemma.shapes}
    _write_tensors(folder / TEXT_ENCODER, names, weights.gemma, SHARD_BYTES)


def _write_tensors(folder: Path, keys: Mapping[str, str], source: TensorSource, limit: int) -> None:
    shards = list(_shards(keys, source, limit))
    for index, shard in enumerate(shards):
        name = "model.safetensors" if len(shards) == 1 else f"model-{index + 1:05d}-of-{len(shards):05d}.safetensors"
        # Read by distinct names: one tensor may stand in two places.
        values = source.read(sorted({keys[key] for key in shard}), torch.device("cpu"))
        tensors = {key: values[keys[key]].clone() for key in shard}
        save_file(tensors, folder / name, metadata={"format": "pt"})


def _shards(keys: Mapping[str, str], source: TensorSource, limit: int) -> Iterator[list[str]]:
    """Keys in portions of about so many bytes, two for each value."""
    portion: list[str] = []
    held = 0
    for key, name in keys.items():
        size = 2 * torch.Size(source.shapes[name]).numel()
        if portion and held + size > limit:
            yield portion
            portion, held = [], 0
        portion.append(key)
        held += size
    if portion:
        yield portion


def _write_json(path: Path, document: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


def _cannot_build(what: str) -> RunnerError:
    return RunnerError(f"Runner 'sglang' cannot build {what}; run this checkpoint with official or native.")
