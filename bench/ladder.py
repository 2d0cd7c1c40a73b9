"""The ladder of tiers: one guided step of each, its time, and how far its x0 is from the same step in fp32.

    python bench/ladder.py --out FILE [--case ID] [--at 0,7,15] [--tiers exact,fast] [--rounds 5] [--profile FILE]

Native's exact tier, whose bits are the official ones, runs to each step of `--at`; there every tier computes the guided
x0 from the same latents, and so does the model in fp32, one block at a time so that it fits beside them. What is kept
is the relative L2 error of each tier at each step, the time of a step by turns, and the memory that a step needs over
the weights. `--profile` writes the kernels of a step of each tier by their share of the time.
"""

import argparse
import copy
import statistics
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from gpu import header, options, shortened
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from parity.runs.execute import device_named
from parity.trace.atomic import write_bytes_atomic, write_json_atomic
from runners.clock import Quiet
from runners.forge.weights import weights_named
from runners.ltx23 import pipeline
from runners.ltx23.fast.fp8_choice import choice_of_tier
from runners.ltx23.latents import LatentState
from runners.ltx23.stages.batch import Batch
from runners.ltx23.stages.denoising import DenoisingStage, Pair, Step, advance
from runners.ltx23.stages.fast_denoising import FastDenoisingStage
from runners.ltx23.transformer import RotaryTables, Transformer
from runners.native.runner import NativeRunner
from runners.protocol import RunOptions

OTHER_KERNEL = "other_kernel"  # the exact tier with another attention kernel: harmless
FP8_CAST = "fp8_cast"  # the exact tier with the weights that the official `fp8_cast` keeps in e4m3
CAST_LAYERS = ("to_q", "to_k", "to_v", "to_out.0", "ff.net.0.proj", "ff.net.2")  # ltx_core.quantization.fp8_cast 1.0.0


class OtherKernelStage(DenoisingStage):
    """The exact tier with torch's flash attention in place of its own choice."""

    def predict(self, batch: Batch, step: Step, *, disable_v2a_cross_attn: bool) -> dict[str, Pair]:
        """See `DenoisingStage`."""
        kernels = [SDPBackend.FLASH_ATTENTION, SDPBackend.MATH] if batch.device.type == "cuda" else [SDPBackend.MATH]
        with sdpa_kernel(kernels):
            return super().predict(batch, step, disable_v2a_cross_attn=disable_v2a_cross_attn)


class CastLinear(nn.Module):
    """A linear layer kept in e4m3 without a scale, and cast up for each call."""

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        self.kept = [part.detach().to(torch.float8_e4m3fn) for part in (layer.weight, layer.bias)]

    def forward(self, x: Tensor) -> Tensor:
        """The layer's output."""
        return nn.functional.linear(x, *(part.to(x.dtype) for part in self.kept))


def cast_to_fp8(transformer: Transformer) -> Transformer:
    """A copy of the model with the blocks' linear layers in e4m3."""
    blocks = transformer.transformer_blocks
    transformer.transformer_blocks = nn.ModuleList()
    model = copy.deepcopy(transformer)
    transformer.transformer_blocks = blocks
    for block in blocks:
        cast = copy.deepcopy(block)
        for name, layer in list(cast.named_modules()):
            if isinstance(layer, nn.Linear) and name.endswith(CAST_LAYERS):
                cast.set_submodule(name, CastLinear(layer))
        model.transformer_blocks.append(cast)
    return model


def stage_of(name: str, transformer: Transformer) -> DenoisingStage:
    """A tier's way of denoising, which leaves the transformer as it is for the others."""
    if name == "exact":
        return DenoisingStage(transformer)
    if name == OTHER_KERNEL:
        return OtherKernelStage(transformer)
    if name == FP8_CAST:
        return DenoisingStage(cast_to_fp8(transformer))
    return FastDenoisingStage(transformer, choice_of_tier(name), keep=True)


class InFloat32(nn.Module):
    """A block that is copied to fp32 for each call."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.block = [block]  # no submodule: its parameters are the model's

    def forward(self, *inputs: Any) -> Any:
        """The block's outputs in fp32."""
        return copy.deepcopy(self.block[0]).float()(*inputs)


def in_float32(transformer: Transformer) -> Transformer:
    """The model in fp32, whose blocks stay in their dtype until they are called."""
    blocks = transformer.transformer_blocks
    transformer.transformer_blocks = nn.ModuleList()
    wide = copy.deepcopy(transformer).float()
    transformer.transformer_blocks = blocks
    wide.transformer_blocks = nn.ModuleList([InFloat32(block) for block in blocks])
    return wide


def wide_batch(batch: Batch) -> Batch:
    """A batch whose text is in fp32."""
    names = ("video_context", "audio_context", "negative_video_context", "negative_audio_context")
    texts = {name: text.float() for name in names if (text := getattr(batch, name)) is not None}
    return replace(batch, config=replace(batch.config, dtype=torch.float32), **texts)


def wide_state(state: LatentState) -> LatentState:
    """A state whose latents are in fp32."""
    return replace(state, latent=state.latent.float(), clean=state.clean.float())


class LadderStage(DenoisingStage):
    """Denoises in the exact tier, and measures every tier on the way."""

    arguments: argparse.Namespace
    found: dict[str, Any]

    def _loop(self, batch: Batch, video: LatentState, audio: LatentState) -> tuple[LatentState, LatentState]:
        assert batch.sigmas is not None
        at = [int(step) for step in self.arguments.at.split(",")]
        stages = {name: stage_of(name, self.transformer) for name in self.arguments.tiers.split(",")}
        oracle = DenoisingStage(in_float32(self.transformer))
        sigmas, changes = batch.sigmas.tolist(), batch.sigmas.diff().tolist()
        on_device = batch.sigmas.to(batch.device)
        guided: Pair | None = None
        for index in range(max(at) + 1):
            if index in at:
                given = index, batch, video, audio, on_device[index], guided
                exact = computed(oracle, index, wide_batch(batch), wide_state(video), wide_state(audio), *given[4:])
                for name, stage in stages.items():
                    errors = self.found["error"].setdefault(name, {"video": {}, "audio": {}})
                    for modality, ours, its in zip(errors, computed(stage, *given), exact, strict=True):
                        errors[modality][str(index)] = error = relative_l2(ours, its)
                        print(f"step {index:2d}  {name:<8} {modality}  {error:.5f} from fp32", flush=True)
                del exact
            guided = computed(stages["exact"], index, batch, video, audio, on_device[index], guided)
            if index == max(at):
                break
            video = advance(video, guided[0], sigmas[index], changes[index])
            audio = advance(audio, guided[1], sigmas[index], changes[index])
        self._times(stages, (index, batch, video, audio, on_device[index], guided))
        return video, audio

    def _times(self, stages: Mapping[str, DenoisingStage], given: tuple[Any, ...]) -> None:
        _, batch, video, audio, *_ = given
        device = batch.device
        given = *given, self.transformer.rotary_tables(video.positions, audio.positions, batch.config.dtype)
        for turn in range(self.arguments.rounds):
            for name in list(stages) if turn % 2 == 0 else reversed(stages):
                seconds, peak = timed(stages[name], given, device)
                if turn:  # the first warms up
                    self.found["step_s"].setdefault(name, []).append(seconds)
                    self.found["peak_bytes"][name] = peak
        write_json_atomic(Path(self.arguments.out), self.found)
        for name, samples in self.found["step_s"].items():
            print(f"{name:<8} {statistics.median(samples):.4f} s a step, median of {len(samples)}", flush=True)
        if self.arguments.profile:
            text = "\n".join(f"{name}\n{profiled(stage, given)}" for name, stage in stages.items())
            write_bytes_atomic(Path(self.arguments.profile), text.encode())


def computed(
    stage: DenoisingStage,
    index: int,
    batch: Batch,
    video: LatentState,
    audio: LatentState,
    sigma: Tensor,
    last: Pair | None,
    rotary: RotaryTables | None = None,
) -> Pair:
    """The guided x0 of a step."""
    if rotary is None:  # a run computes them once, not in each step
        rotary = stage.transformer.rotary_tables(video.positions, audio.positions, batch.config.dtype)
    return stage.evaluate_stage1_guided_x0(batch, stage.step_at(index, batch, video, audio, sigma, rotary), last)


def timed(stage: DenoisingStage, given: tuple[Any, ...], device: torch.device) -> tuple[float, int]:
    """Seconds of a step, and the most memory over what stood before."""
    if device.type == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated() if device.type == "cuda" else 0
    start = time.perf_counter()
    computed(stage, *given)
    if device.type != "cuda":
        return time.perf_counter() - start, 0
    torch.cuda.synchronize()
    return time.perf_counter() - start, torch.cuda.max_memory_allocated() - before


def profiled(stage: DenoisingStage, given: tuple[Any, ...]) -> str:
    """The kernels of a step by their time."""
    activities = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=activities) as profile:
        computed(stage, *given)
        if torch.cuda.is_available():
            torch.cuda.synchronize()
    by_name: dict[str, list[float]] = {}
    for event in profile.events() or []:
        if event.device_type == torch.autograd.DeviceType.CUDA:
            by_name.setdefault(event.name, []).append(event.device_time_total / 1e3)
    lines = sorted(by_name.items(), key=lambda item: -sum(item[1]))[:60]
    total = sum(sum(times) for times in by_name.values())
    return f"{total:.1f} ms\n" + "\n".join(f"{sum(t):9.2f} ms {len(t):6d} x  {name[:150]}" for name, t in lines)


def relative_l2(ours: Tensor, its: Tensor) -> float:
    """The norm of the difference over the norm of what is held to be right."""
    return float((ours.double() - its.double()).norm() / its.double().norm())


def main() -> None:
    """Measure and save."""
    parser = options(__doc__)
    parser.add_argument("--at", default="0,7,15")
    parser.add_argument("--tiers", default=f"exact,{OTHER_KERNEL},fast,fp8,fp8x2,{FP8_CAST}")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--profile")
    arguments = parser.parse_args()
    device = device_named(arguments.device)
    case, weights = shortened(arguments.case, 30), weights_named(arguments.weights, device)
    LadderStage.arguments = arguments
    found = {"case": case.id, "error": {}, "step_s": {}, "peak_bytes": {}}
    LadderStage.found = {**header("ladder", arguments, device), **found}
    with patch.object(pipeline, "DenoisingStage", LadderStage):
        NativeRunner(weights, RunOptions(device=device)).run(case, Quiet())


if __name__ == "__main__":
    main()
