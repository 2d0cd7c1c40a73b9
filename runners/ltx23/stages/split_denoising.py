"""Denoising on two devices of one kind: each computes some passes of a step, with the bits of one device.

A pass needs nothing of another but what they share, so passes that share blocks stay together. The second device has a
transformer of its own; in a step it is sent the latents and sends back x0, a few megabytes. On CUDA each device replays
a graph of its passes: one host thread could not start the kernels of both in time, and two would wait for each other.
Each graph is replayed by a thread of its own, since replaying one of thousands of kernels returns when most have run.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from runners.ltx23.block import StreamRotary
from runners.ltx23.latents import LatentState
from runners.ltx23.passes import GuidancePass
from runners.ltx23.rotary import InterleavedRotary, Rotary, SplitRotary
from runners.ltx23.shared_blocks import departure
from runners.ltx23.stages.batch import Batch
from runners.ltx23.stages.denoising import DenoisingStage, Pair, Step, differs_beyond_skips, modality_at
from runners.ltx23.step_graph import StepGraphs
from runners.ltx23.transformer import RotaryTables, Transformer
from runners.tap import tapping

CONTEXTS = ("video_context", "audio_context", "negative_video_context", "negative_audio_context")


@dataclass(frozen=True, kw_only=True)
class _Side:
    """One device's part in a request: everything that stays the same from step to step."""

    stage: DenoisingStage
    device: torch.device
    batch: Batch
    video: LatentState
    audio: LatentState
    rotary: RotaryTables
    graphs: StepGraphs

    def compute(
        self, passes: Sequence[GuidancePass], *, disable_v2a_cross_attn: bool
    ) -> Callable[..., tuple[Tensor, ...]]:
        """Computes video's and audio's x0 for each pass, from the latents and the noise level of a step."""

        def computed(video_latent: Tensor, audio_latent: Tensor, sigma: Tensor) -> tuple[Tensor, ...]:
            video, audio = replace(self.video, latent=video_latent), replace(self.audio, latent=audio_latent)
            context = self.stage.context(self.batch, negative=False)
            modulation = self.stage.transformer.modulation(
                modality_at(video, sigma, context[0], True), modality_at(audio, sigma, context[1], True)
            )
            step = Step(
                passes=tuple(passes), video=video, audio=audio, sigma=sigma, rotary=self.rotary, modulation=modulation
            )
            x0_of = self.stage.pass_by_pass(self.batch, step, disable_v2a_cross_attn=disable_v2a_cross_attn)
            return tuple(tensor for one in passes for tensor in x0_of(one))

        return computed

    def run(
        self,
        form: tuple[GuidancePass, ...] | None,
        compute: Callable[..., tuple[Tensor, ...]],
        given: tuple[Tensor, ...],
    ) -> tuple[Tensor, ...]:
        """`StepGraphs.run` on this device, in any thread."""
        device = torch.cuda.device(self.device if self.device.type == "cuda" else -1)
        with torch.inference_mode(), device:
            return self.graphs.run(form, compute, given)


class SplitDenoisingStage(DenoisingStage):
    """Fills in `video_latent` and `audio_latent`."""

    def __init__(self, transformer: Transformer, second: Transformer, device: torch.device) -> None:
        """Take over a transformer on each device.

        Args:
            transformer: on the run's device.
            second: with the same weights, on `device`.
            device: the second one, of the kind of the first.
        """
        super().__init__(transformer)
        self._second, self._device = DenoisingStage(second), device
        self._sides: tuple[_Side, _Side] | None = None

    def forward(self, batch: Batch) -> Batch:
        """Run the whole schedule. Raises: StageInputError if a stage before was left out."""
        super().forward(batch)
        batch.step_graphs = "; ".join(f"{side.device}: {side.graphs.note}" for side in self._sides or ())
        return batch

    def graphs(self, batch: Batch) -> StepGraphs:
        """None of a whole step, which is on two devices: each has its own."""
        return StepGraphs(batch.device, against="passes run on two devices")

    def predict(self, batch: Batch, step: Step, *, disable_v2a_cross_attn: bool) -> dict[str, Pair]:
        """x0 of both modalities by the name of the pass, on the run's device."""
        if self._sides is None or self._sides[0].rotary is not step.rotary:  # a request has its own
            self._sides = self._sides_of(batch, step)
        parts = split_passes(step.passes, len(self.transformer.transformer_blocks))
        work: list[tuple[tuple[GuidancePass, ...], Callable[[], tuple[Tensor, ...]]]] = []
        # The second device first: it has more to do.
        for side, passes in list(zip(self._sides, parts, strict=True))[::-1]:
            if passes:
                given = tuple(one.to(side.device) for one in (step.video.latent, step.audio.latent, step.sigma))
                compute = side.compute(passes, disable_v2a_cross_attn=disable_v2a_cross_attn)
                work.append((passes, partial(side.run, None if tapping() else passes, compute, given)))
        # Who hears taps, what autocasts and what is captured belong to this thread; a replay needs none of them.
        replays = not tapping() and all(
            side.graphs.has_captured(passes) for side, passes in zip(self._sides, parts, strict=True) if passes
        )
        runs = [run for _, run in work]
        if replays:
            with ThreadPoolExecutor(len(work)) as threads:
                outputs = [one.result() for one in [threads.submit(run) for run in runs]]
        else:
            outputs = [run() for run in runs]
        x0: dict[str, Pair] = {}
        for (passes, _), tensors in zip(work, outputs, strict=True):
            home = [tensor.to(batch.device) for tensor in tensors]
            x0 |= {one.name: (home[2 * at], home[2 * at + 1]) for at, one in enumerate(passes)}
        return x0

    def _sides_of(self, batch: Batch, step: Step) -> tuple[_Side, _Side]:
        device = self._device
        moved = {name: text.to(device) for name in CONTEXTS if (text := getattr(batch, name)) is not None}
        here = _Side(
            stage=DenoisingStage(self.transformer),
            device=batch.device,
            batch=batch,
            video=step.video,
            audio=step.audio,
            rotary=step.rotary,
            graphs=StepGraphs(batch.device, always=True),
        )
        there = _Side(
            stage=self._second,
            device=device,
            batch=replace(batch, device=device, **moved),
            video=_state(step.video, device),
            audio=_state(step.audio, device),
            rotary=RotaryTables(video=_stream(step.rotary.video, device), audio=_stream(step.rotary.audio, device)),
            graphs=StepGraphs(device, always=True),
        )
        return here, there


def split_passes(
    passes: Sequence[GuidancePass], blocks: int
) -> tuple[tuple[GuidancePass, ...], tuple[GuidancePass, ...]]:
    """The passes of a step for the first and the second device, by the blocks that each has to compute.

    Passes that share blocks with the first one stay with it; each of the others goes where less is to be done.
    """
    together = [one for one in passes if one is passes[0] or _blocks_of(one, passes[0], blocks) < blocks]
    parts = [together, []]
    work = [blocks + sum(_blocks_of(one, passes[0], blocks) for one in together[1:]), 0]
    for one in passes:
        if one not in together:
            lighter = work.index(min(work))
            parts[lighter].append(one)
            work[lighter] += blocks
    return tuple(parts[0]), tuple(parts[1])


def _blocks_of(one: GuidancePass, first: GuidancePass, blocks: int) -> int:
    return blocks if differs_beyond_skips(one, first) else blocks - departure(one.skips, first.skips, blocks)


def _state(state: LatentState, device: torch.device) -> LatentState:
    return LatentState(**{name: tensor.to(device) for name, tensor in vars(state).items()})


def _stream(rotary: StreamRotary, device: torch.device) -> StreamRotary:
    return StreamRotary(own=_table(rotary.own, device), cross=_table(rotary.cross, device))


def _table(table: Rotary, device: torch.device) -> Rotary:
    moved: dict[str, Tensor] = {name: part.to(device) for name, part in vars(table).items()}
    return SplitRotary(**moved) if isinstance(table, SplitRotary) else InterleavedRotary(**moved)
