"""Does a made checkpoint behave like a trained one where it matters? Figures of one run, each with its bounds.

A comparison on a made model means something only if every part of it takes part: a branch that adds nothing, a guidance
pass that equals another, a saturated frame or a silent waveform would hide any bug behind it.

The case is run on the native model. Streams, branches and outputs are heard as taps; the gates that a branch is added
through are no taps, so a hook on each block computes them from what the block is called with.

Axes: B sample, T token, C channel of a stream.
"""

import tempfile
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from weakref import WeakSet

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from transformers.models.gemma3.modeling_gemma3 import Gemma3DecoderLayer

from runners.case import Case, Quantization, parse_case
from runners.clock import Clock, Progress
from runners.ltx23 import audio_vae_layers, video_vae_resnet
from runners.ltx23.block import FEED_FORWARD_ROWS, SELF_ATTENTION_ROWS, TEXT_ATTENTION_ROWS, AudioVideoBlock
from runners.ltx23.connectors import Connector
from runners.ltx23.pipeline import LTX23Pipeline
from runners.ltx23.pipeline_config import PipelineConfig
from runners.ltx23.stages.batch import Batch
from runners.ltx23.vocoder import SnakeBlock
from runners.native.request import sampling_params
from runners.tap import listening
from runners.weights import Weights, num_blocks

BRANCHES: Final = ("self_attn", "text_attn", "av_attn", "ff")
_ROWS: Final = {"self_attn": SELF_ATTENTION_ROWS, "text_attn": TEXT_ATTENTION_ROWS, "ff": FEED_FORWARD_ROWS}
STREAMS: Final = ("video", "audio")
GUIDANCE_PASSES: Final = ("uncond", "perturbed", "isolated")  # each against `cond`
RELEASED_PERTURBED_BLOCK: Final = 28
RESIDUAL_PARTS: Final = ("language model", "connector", "video autoencoder", "audio decoder", "vocoder")
_RESIDUAL_PART_OF: Final[dict[type[nn.Module], str]] = {
    Gemma3DecoderLayer: "language model",
    video_vae_resnet.ResnetBlock: "video autoencoder",
    audio_vae_layers.AudioResnetBlock: "audio decoder",
    SnakeBlock: "vocoder",
}

_CASE: Final = Path(__file__).with_name("check.toml")


@dataclass(frozen=True, kw_only=True)
class Figure:
    """One property of a run and the range it must lie in."""

    name: str
    value: float
    low: float
    high: float

    @property
    def holds(self) -> bool:
        """True if the value lies in its range; a nan never does."""
        return self.low <= self.value <= self.high


def check_weights(
    weights: Weights,
    device: torch.device,
    overrides: dict[str, Any] | None = None,
    progress: Progress | None = None,
    quantization: Quantization | None = None,
) -> list[Figure]:
    """Run a small request with a picture on a model and measure it.

    Args:
        weights: of a folder that `parity forge` wrote, or made straight on the device, the way for `full`.
        device: to run on.
        overrides: dotted keys of the case, for another request than the one for `tiny`.
        progress: told what the run is doing.
        quantization: how the transformer's weights are kept.
    Raises: ParityError of the kind that fits, if the weights cannot be run.
    """
    with tempfile.TemporaryDirectory() as scratch, observed() as observations:
        case = check_case(Path(scratch), num_blocks(weights), overrides)
        pipeline = LTX23Pipeline(weights, PipelineConfig(quantization=quantization), device)
        batch = pipeline(sampling_params(case), Clock(device, progress))
    return figures(observations, batch)


def check_case(folder: Path, num_blocks: int, overrides: dict[str, Any] | None = None) -> Case:
    """The request that a checkpoint is checked with, its picture written into `folder`."""
    from PIL import Image
    from skimage.data import astronaut

    Image.fromarray(astronaut()).save(folder / "astronaut.png")
    perturbed = [RELEASED_PERTURBED_BLOCK if num_blocks > RELEASED_PERTURBED_BLOCK else num_blocks // 2]
    blocks = {f"guidance.{stream}.stg_blocks": perturbed for stream in STREAMS}
    return parse_case(_CASE.read_text(encoding="utf-8"), folder, {**blocks, **(overrides or {})})


class Observations:
    """Measurements while a model runs; every number is a root mean square or a ratio of two."""

    def __init__(self) -> None:
        self.stream_before: dict[str, list[float]] = defaultdict(list)  # stream to sizes before each block
        self.stream_after: dict[str, list[float]] = defaultdict(list)  # tap tail to sizes after each block
        self.share: dict[tuple[str, str], list[float]] = defaultdict(list)  # (stream, branch) to gated share of stream
        self.difference: dict[tuple[str, str], dict[int, float]] = defaultdict(dict)  # (pass, stream), step to distance
        self.residual: dict[str, list[float]] = defaultdict(
            list
        )  # part to what its blocks add, as share of their input
        self.size: dict[str, float] = {}  # of single taps
        self._gates: dict[tuple[str, str], Tensor] = {}
        self._current_size: dict[str, float] = {}
        self._cond: dict[str, Tensor] = {}
        self._connector_blocks: WeakSet[nn.Module] = WeakSet()

    def module_called(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        """Forward pre-hook of every module: note streams and gates of a block about to run."""
        if isinstance(module, Connector):
            self._connector_blocks.update(module.transformer_1d_blocks)
        if not isinstance(module, AudioVideoBlock):
            return
        video, audio, at_video, at_audio, _ = args
        for x, branches in zip((video, audio), module.branches(at_video, at_audio), strict=True):
            self._current_size[branches.name] = _rms(x)
            for branch, rows in _ROWS.items():
                self._gates[branches.name, branch] = branches.modulation(rows).gate
            self._gates[branches.name, "av_attn"] = branches.cross_gate

    def module_ran(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        """Forward hook of every module: note what the residual blocks of the smaller networks add."""
        part = self._residual_part(module)
        after = output[0] if isinstance(output, tuple) else output
        if part is not None and after.shape == args[0].shape:  # a block that changes width has no plain stream
            self.residual[part].append(_rms(after.float() - args[0].float()) / _rms(args[0]))

    def _residual_part(self, module: nn.Module) -> str | None:
        if module in self._connector_blocks:
            return "connector"
        for kind, part in _RESIDUAL_PART_OF.items():
            if isinstance(module, kind):
                return part
        return None

    def heard(self, name: str, tensor: Tensor) -> None:
        """Tap listener."""
        parts = name.split("/")
        if parts[0] != "denoise":
            self.size[name] = _rms(tensor)
        elif parts[2] == "cond" and parts[3] == "block":
            self._heard_in_block(parts[5], parts[6], tensor)
        elif parts[3:4] == ["x0"]:
            self._heard_x0(int(parts[1]), parts[2], parts[4], tensor)

    def _heard_in_block(self, stream: str, branch: str, tensor: Tensor) -> None:
        before = self._current_size[stream]
        if branch == "out":
            self.stream_before[stream].append(before)
            self.stream_after[stream].append(_rms(tensor))
        else:
            gated = tensor.float() * self._gates[stream, branch].float()  # (B, T, C)
            self.share[stream, branch].append(_rms(gated) / before)

    def _heard_x0(self, step: int, guidance_pass: str, stream: str, tensor: Tensor) -> None:
        x0 = tensor.float()
        if guidance_pass == "cond":
            self._cond[stream] = x0.clone()
        else:
            cond = self._cond[stream]
            self.difference[guidance_pass, stream][step] = _rms(x0 - cond) / _rms(cond)


@contextmanager
def observed() -> Iterator[Observations]:
    """Observe every native model that runs inside."""
    observations = Observations()
    handles = (
        register_module_forward_pre_hook(observations.module_called),
        register_module_forward_hook(observations.module_ran),
    )
    try:
        with listening(observations.heard):
            yield observations
    finally:
        for handle in handles:
            handle.remove()


def figures(observations: Observations, batch: Batch) -> list[Figure]:
    """Judge what was observed. A branch or pass that never ran has a share of nan, which holds no bound."""
    found = []
    assert batch.video_latent is not None and batch.audio_latent is not None and batch.sigmas is not None
    assert batch.video_frames is not None and batch.audio_waveform is not None
    for stream in STREAMS:
        for branch in BRANCHES:
            share = _least(observations.share[stream, branch])
            found.append(Figure(name=f"{stream} {branch} share of stream, least", value=share, low=0.01, high=1.0))
        before, after = observations.stream_before[stream], observations.stream_after[stream]
        growth = max(after, default=torch.nan) / _least(before)
        found.append(Figure(name=f"{stream} stream growth through blocks, most", value=growth, low=0.5, high=10.0))
        for guidance_pass in GUIDANCE_PASSES:
            # x0 is the latent less sigma times velocity, so this is how far the velocities of two passes are apart. The
            # bound is half of what perturbing one block out of 48 does.
            per_step = observations.difference[guidance_pass, stream].items()
            difference = _least([distance / batch.sigmas[step].item() for step, distance in per_step])
            found.append(
                Figure(
                    name=f"{stream} {guidance_pass} from cond per sigma, least", value=difference, low=0.005, high=1.0
                )
            )
    for part in RESIDUAL_PARTS:
        share = _least(observations.residual[part])
        found.append(Figure(name=f"{part}: least that a residual block adds", value=share, low=0.01, high=2.0))
    for name in ("connector/pos/video", "connector/pos/audio", "image/0/latent"):
        size = observations.size.get(name, torch.nan)
        found.append(Figure(name=f"{name} root mean square", value=size, low=0.3, high=3.0))
    for stream, latent in (("video", batch.video_latent), ("audio", batch.audio_latent)):
        std = latent.float().std().item()
        found.append(Figure(name=f"{stream} final latent deviation", value=std, low=0.5, high=2.0))
    frames = batch.video_frames
    clipped = ((frames == 0) | (frames == 255)).float().mean().item()
    found.append(Figure(name="frames: share of bytes at 0 or 255", value=clipped, low=0.0, high=0.05))
    motion = (frames[1:].float() - frames[:-1].float()).square().mean().sqrt().item()
    found.append(Figure(name="frames: deviation, levels", value=frames.float().std().item(), low=15.0, high=100.0))
    found.append(Figure(name="frames: change to the next frame, levels", value=motion, low=0.5, high=60.0))
    waveform = batch.audio_waveform.float()
    clipped = (waveform.abs() >= 1).float().mean().item()
    found.append(Figure(name="waveform: share of samples at the limit", value=clipped, low=0.0, high=0.01))
    varying = (waveform - waveform.mean(dim=-1, keepdim=True)).square().mean().sqrt().item()
    found.append(Figure(name="waveform: root mean square without offset", value=varying, low=0.03, high=0.4))
    return found


def _least(values: list[float]) -> float:
    return min(values, default=torch.nan)


def _rms(x: Tensor) -> float:
    return x.float().square().mean().sqrt().item()
