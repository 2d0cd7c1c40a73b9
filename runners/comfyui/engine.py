"""ComfyUI's modules, imported from a checkout without its server, and what of the checkpoint they load.

Nothing is edited. What is set or replaced from outside: its own command-line switches, the folders that it looks for
files in, compiled parts of libraries on a CPU, and `should_use_bf16`, so that a CPU computes in bf16 as a GPU does.
"""

import importlib
import sys
import types
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch

from runners.comfyui.files import NODES
from runners.comfyui.sizes import text_encoder_fitted
from runners.errors import CheckpointError
from runners.files import read_bytes
from runners.loaded import WeightSample, look_for
from runners.protocol import RunOptions
from runners.renaming import UNREAD_STATISTICS
from runners.stand_ins import without_compiled_torchaudio, without_compiled_torchvision
from runners.weights import WeightsFolder

LIGHTRICKS: Final = "parity_ltxvideo"  # the package that their folder, whose name is none of Python's, is imported as
GEMMA_PREFIX: Final = "language_model."
PROJECTION: Final = "text_embedding_projection."
ATTENTION: Final = {
    "pytorch": "use_pytorch_cross_attention",
    "sub-quadratic": "use_quad_cross_attention",
    "split": "use_split_cross_attention",
}  # value of the option -> its switch


@dataclass(frozen=True, kw_only=True)
class Models:
    """A checkpoint as ComfyUI has loaded it."""

    clip: Any
    model: Any  # a patcher around the transformer
    vae: Any
    audio_vae: Any  # with the vocoder


def import_engine(root: Path, options: RunOptions, attention: str) -> None:
    """Import ComfyUI from a checkout, set as asked. Raises: ImportError for what is not installed."""
    device = options.device
    if not torch.cuda.is_available():
        without_compiled_torchaudio()
        without_compiled_torchvision()
    sys.path.insert(1, str(root.resolve()))  # behind this project, whose `tests` it would hide
    switches = importlib.import_module("comfy.cli_args").args
    switches.cpu = device.type == "cpu"
    setattr(switches, ATTENTION[attention], True)
    switches.fp32_unet = switches.fp32_vae = switches.fp32_text_enc = options.dtype == torch.float32
    management: Any = importlib.import_module("comfy.model_management")
    if device.type == "cpu" and options.dtype == torch.bfloat16:
        management.should_use_bf16 = lambda *_, **__: True
    package = types.ModuleType(LIGHTRICKS)
    package.__path__ = [str((root / NODES).resolve())]  # without its __init__, which imports every node there is
    sys.modules[LIGHTRICKS] = package
    for name in ("nodes", "comfy_extras.nodes_lt", "comfy_extras.nodes_lt_audio", f"{LIGHTRICKS}.guiders"):
        importlib.import_module(name)


def load_text_encoder(weights: WeightsFolder) -> Any:
    """Gemma with the projections behind it, as ComfyUI loads its files of these."""
    cpu = torch.device("cpu")
    names = [name for name in weights.gemma.shapes if name.startswith(GEMMA_PREFIX)]
    gemma = {name.removeprefix(GEMMA_PREFIX): value for name, value in weights.gemma.read(names, cpu).items()}
    tokenizer = read_bytes(weights.gemma_folder / "tokenizer.model", CheckpointError, "download Gemma whole")
    gemma["spiece_model"] = torch.frombuffer(bytearray(tokenizer), dtype=torch.uint8)  # its files carry the tokenizer
    projection = weights.model.read([name for name in weights.model.shapes if name.startswith(PROJECTION)], cpu)
    loaders = importlib.import_module("comfy.sd")
    with text_encoder_fitted(weights):
        return loaders.load_text_encoder_state_dicts([gemma, projection], clip_type=loaders.CLIPType.LTXV)


def load_models(weights: WeightsFolder, clip: Any) -> Models:
    """Everything else, from the single file, by ComfyUI's own loaders."""
    folders = importlib.import_module("folder_paths")
    folders.add_model_folder_path("checkpoints", str(weights.checkpoint_path.parent.resolve()), is_default=True)
    path = str(weights.checkpoint_path)
    loaders, audio = importlib.import_module("comfy.sd"), importlib.import_module("comfy_extras.nodes_lt_audio")
    model, _, vae, _ = loaders.load_checkpoint_guess_config(path, output_vae=True, output_clip=False)
    audio_vae = audio.LTXVAudioVAELoader.execute(weights.checkpoint_path.name).result[0]
    return Models(clip=clip, model=model, vae=vae, audio_vae=audio_vae)


def loaded_of(weights: WeightsFolder, models: Models) -> dict[str, WeightSample]:
    """The part of the checkpoint that each of its models holds."""
    shapes = weights.model.shapes
    read = [name for name in shapes if not any(pattern.fullmatch(name) for pattern in UNREAD_STATISTICS)]
    text = models.clip.cond_stage_model
    found = {
        component: look_for(module, weights.model, [name for name in read if name.startswith(prefix)])
        for component, module, prefix in (
            ("transformer", models.model.model.diffusion_model, "model.diffusion_model."),
            ("vae", models.vae.first_stage_model, "vae."),
            ("audio_vae", models.audio_vae.first_stage_model, "audio_vae."),
            ("vocoder", models.audio_vae.first_stage_model, "vocoder."),
            ("text_projection", text, PROJECTION),
        )
    }
    gemma = [name for name in weights.gemma.shapes if name.startswith(GEMMA_PREFIX)]
    return {**found, "text_encoder": look_for(text, weights.gemma, gemma)}
