"""Denoising in lockstep: while the official transformer runs, every part of ours is fed that part's own inputs.

At the start of a step `wiring_of` shows how our denoising stage would run it. The conditions that it computes are
compared with the official ones, and are then not to blame for anything else: each block gets the official streams and
the official conditions, and of its own only the branches it would skip (`parity.isolate.block`). The output head, the
guided combination and the Euler step are fed alike.

A block's streams, branches and errors live until the next block is done; nothing is stored beyond that.

Axes: B sample, T token, C channel.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor, nn

from parity.isolate.block import OfficialBlock
from parity.isolate.choice import Choice
from parity.isolate.error import ErrorSink
from parity.isolate.wiring import BlockCall, PassWiring, blocks_as, passes_as, unheard, wiring_of
from parity.taps.group import MODULATIONS
from parity.taps.name import STREAMS
from runners.ltx23.block import BlockSkips
from runners.ltx23.latents import LatentState
from runners.ltx23.stages import denoising
from runners.ltx23.stages.batch import Batch
from runners.ltx23.stages.denoising import DenoisingStage, Pair, Step
from runners.ltx23.transformer import Transformer
from runners.official import exactly
from runners.official.lockstep import AttentionCall, conditions_of, hear_attention, modulation_of
from runners.tap import current_scope, scope

MeasureBlock = Callable[[OfficialBlock, nn.Module, BlockSkips], None]


@dataclass(frozen=True, kw_only=True)
class MeasuredStep:
    """A step of the official loop that is measured: how ours would run it, and what is heard of the official one."""

    step: Step
    sigma: float
    change: float | None  # of sigma, by an Euler step
    last: Pair | None  # the official guided prediction of the step before
    wiring: Mapping[str, PassWiring]  # by scope
    taps: dict[str, Tensor] = field(default_factory=dict)
    attended: dict[tuple[str, str], AttentionCall] = field(default_factory=dict)  # in the block that is running
    modalities: list[exactly.Pair] = field(default_factory=list)  # what the pass under way was given, alone
    embeddings: dict[str, Tensor] = field(default_factory=dict)  # of the pass's noise level, by stream

    def state(self, stream: str) -> LatentState:
        """The state that the step begins with."""
        return {"video": self.step.video, "audio": self.step.audio}[stream]


class DenoisingLockstep:
    """Measures what each part of our denoising adds, beside an official transformer that is running."""

    def __init__(
        self, transformer: Transformer, batch: Batch, table: ErrorSink, choice: Choice, measure_block: MeasureBlock
    ) -> None:
        """Prepare; `batch` has the official contexts, rows go to `table`, and blocks to `measure_block`."""
        self._transformer = transformer
        self._stage = DenoisingStage(transformer)
        self._batch = batch
        self._table = table
        self._choice = choice
        self._measure_block = measure_block
        self._whole = choice.blocks is None
        self._guided: dict[str, Tensor] = {}  # the last official prediction of each stream
        self._measured: MeasuredStep | None = None  # the running step, as long as there is something to compare

    def attach(self, velocity_model: nn.Module) -> None:
        """Measure whenever a block of the official transformer has run."""
        self._official = velocity_model
        velocity_model.register_forward_pre_hook(self._pass_begins)
        for index, block in enumerate(velocity_model.transformer_blocks.children()):  # type: ignore[union-attr]
            block.register_forward_hook(partial(self._after_block, index), with_kwargs=True)
            hear_attention(block, self._hear_attention)

    def _pass_begins(self, _model: nn.Module, inputs: tuple[Any, ...]) -> None:
        if self._measured is not None:
            self._measured.modalities[:] = [(inputs[0], inputs[1])]

    def begin_stage(self) -> None:
        """The next step is the first of a second stage: nothing was predicted yet."""
        self._measured = None
        self._guided.clear()

    def begin_step(self, index: int, sigmas: Tensor, sigma: Tensor, video: LatentState, audio: LatentState) -> None:
        """Find out how our denoising stage would run a step that the official one is about to."""
        self._measured = None
        if not self._choice.step(index):
            return
        last = (self._guided["video"], self._guided["audio"]) if self._guided else None
        with self._choice.around(), scope(f"denoise/{index:03d}"):
            rotary = self._transformer.rotary_tables(video.positions, audio.positions, self._batch.config.dtype)
            sigma, plan = sigma.to(self._batch.device), self._batch.plan
            step = self._stage.step_at(plan.guidance_step(index), self._batch, video, audio, sigma, rotary)
            wiring = wiring_of(
                self._transformer, lambda: self._stage.evaluate_stage1_guided_x0(self._batch, step, last)
            )
        schedule = sigmas.float().cpu()
        self._measured = MeasuredStep(
            step=step,
            sigma=float(sigma),
            # What a step of `res_2s` adds up is no single prediction's, so that no step of it is tried alone.
            change=float(schedule[index + 1] - schedule[index]) if plan.sampler == "euler" else None,
            last=last,
            wiring=wiring,
        )

    def hear(self, name: str, tensor: Tensor) -> None:
        """A tap of the official run."""
        head, _, tail = name.rpartition("/")
        if head.endswith("/guided"):
            self._guided[tail] = tensor
        if self._measured is None or not name.startswith(f"{self._batch.plan.prefix}denoise/"):
            return
        self._measured.taps[name] = tensor
        if not self._whole:
            return
        if head.endswith("/latent"):
            self._euler_step(self._measured, name, tail)
        elif tail == "audio" and head.endswith("/x0"):
            self._head(self._measured, head.removesuffix("/x0"))
        elif tail == "audio" and head.endswith("/guided"):
            self._combination(self._measured, head.removesuffix("/guided"))

    def _hear_attention(self, branch: tuple[str, str], attended: AttentionCall) -> None:
        if self._measured is not None:
            self._measured.attended[branch] = attended

    def _after_block(self, index: int, block: nn.Module, _args: Any, kwargs: dict[str, Any], output: Any) -> None:
        if self._measured is not None:
            self._block(self._measured, index, block, kwargs, output)

    def _block(self, measured: MeasuredStep, index: int, block: nn.Module, kwargs: dict[str, Any], output: Any) -> None:
        where, place = current_scope(), f"block/{index:02d}"
        head = f"{where}/{place}"
        official = OfficialBlock(
            index=index,
            place=place,
            head=head,
            module=block,
            arguments=kwargs,
            branches={name: tensor for name, tensor in measured.taps.items() if name.startswith(f"{head}/")}
            | {f"{head}/{stream}/out": streams.x for stream, streams in zip(STREAMS, output, strict=True)},
            attended=dict(measured.attended),
        )
        for name in [name for name in measured.taps if "/block/" in name]:
            del measured.taps[name]
        wiring = measured.wiring.get(where)
        if wiring is None or index not in wiring.blocks:
            self._table.missing(head, "the candidate does not run this block in this pass")
        else:
            if index == 0 and self._whole:
                self._conditions(measured, where, wiring.blocks[0], kwargs)
            if self._choice.block(index):
                ours = self._transformer.transformer_blocks[index]
                self._measure_block(official, ours, wiring.blocks[index].skips)
        measured.embeddings.update({stream: kwargs[stream].embedded_timestep for stream in STREAMS})
        measured.attended.clear()  # also what was heard when the official block ran again

    def _conditions(self, measured: MeasuredStep, where: str, ours: BlockCall, kwargs: Mapping[str, Any]) -> None:
        compare = self._table.compare
        entries, conditions = (ours.video, ours.audio), (ours.at_video, ours.at_audio)
        for stream, candidate, entry in zip(STREAMS, conditions, entries, strict=True):
            official = conditions_of(kwargs[stream])
            exact = cache(partial(exactly.conditions, self._official, measured.modalities[0], stream))
            compare(f"{where}/entry/{stream}", kwargs[stream].x, entry, partial(_entry, exact))
            compare(f"{where}/context/{stream}", official.context, candidate.context, official.context.double)
            for kind in ("own", "cross"):
                theirs, own = (
                    torch.stack((table.cos, table.sin))
                    for table in (getattr(official.rotary, kind), getattr(candidate.rotary, kind))
                )
                compare(f"{where}/rotary/{stream}/{kind}", theirs, own)
            for kind in MODULATIONS:
                theirs, own = getattr(official.modulation, kind), getattr(candidate.modulation, kind)
                compare(f"{where}/modulation/{stream}/{kind}", theirs, own, partial(_modulation, exact, kind))
            if official.enabled != candidate.enabled:
                self._table.missing(
                    f"{where}/enabled/{stream}", f"reference {official.enabled}, candidate {candidate.enabled}"
                )

    def _head(self, measured: MeasuredStep, where: str) -> None:
        """Our output head on the last streams of the official blocks, against the official x0."""
        if where not in measured.wiring:
            self._table.missing(f"{where}/x0/video", "the candidate does not run this pass")
            return
        count = len(self._transformer.transformer_blocks)
        video, audio = (measured.taps[f"{where}/block/{count - 1:02d}/{stream}/out"] for stream in STREAMS)
        last_streams = [lambda *_: (video, audio)] * count
        with self._choice.around(), blocks_as(self._transformer, last_streams), unheard():
            x0 = measured.wiring[where].call()
        for stream, last, candidate in zip(STREAMS, (video, audio), x0, strict=True):
            head = partial(exactly.x0, self._official, stream, last, measured.embeddings[stream])
            self._table.compare(
                f"{where}/x0/{stream}",
                measured.taps[f"{where}/x0/{stream}"],
                candidate,
                partial(head, measured.state(stream), measured.sigma),
            )

    def _combination(self, measured: MeasuredStep, head: str) -> None:
        """Our guided combination of the official x0 of all passes."""
        extra = sorted(where for where in measured.wiring if f"{where}/x0/audio" not in measured.taps)
        if extra:
            self._table.missing(extra[0], "the reference does not run this pass")
            self._measured = None
            return

        def official_x0(_call: Callable[[], Pair]) -> Pair:
            where = current_scope()
            return measured.taps[f"{where}/x0/video"], measured.taps[f"{where}/x0/audio"]

        with self._choice.around(), passes_as(self._transformer, official_x0):  # in the official step's scope
            ours = self._stage.evaluate_stage1_guided_x0(self._batch, measured.step, measured.last)
        for stream, candidate in zip(STREAMS, ours, strict=True):
            own = partial(self._exactly_guided, measured, head, stream)
            self._table.compare(f"{head}/guided/{stream}", self._guided[stream], candidate, own)

    def _exactly_guided(self, measured: MeasuredStep, head: str, stream: str) -> Tensor:
        """The official combination in float64; of a modality that skips the step, its last prediction."""
        plan, passes = self._batch.plan, measured.step.passes
        guider = {"video": plan.video, "audio": plan.audio}[stream]
        enabled = bool(passes) and {"video": passes[0].video_enabled, "audio": passes[0].audio_enabled}[stream]
        if not enabled and measured.last is not None:
            return measured.last[STREAMS.index(stream)].double()
        return exactly.guided(guider, {one.name: measured.taps[f"{head}/{one.name}/x0/{stream}"] for one in passes})

    def _euler_step(self, measured: MeasuredStep, name: str, stream: str) -> None:
        """Our Euler step to the official guided prediction, if the sampler takes one."""
        state, x0, change = measured.state(stream), self._guided[stream], measured.change
        if change is None:
            return
        with self._choice.around():
            ours = denoising.advance(state, x0, measured.sigma, change)
        own = partial(exactly.latent, state, x0, measured.sigma, change)
        self._table.compare(name, measured.taps[name], ours.latent, own)


def _entry(exact: Callable[[], Any]) -> Tensor:
    value: Tensor = exact().x
    return value


def _modulation(exact: Callable[[], Any], kind: str) -> Tensor:
    value: Tensor = getattr(modulation_of(exact()), kind)
    return value
