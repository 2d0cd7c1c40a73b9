"""Denoising in lockstep: while the official transformer runs, every block of ours is fed that block's own inputs.

At the start of a step our denoising stage is run on the official state with its blocks left out. That costs next to
nothing and shows how it would wire the step: which passes, with which context, which branches skipped in which block,
and the conditions (rotary tables, modulation) it computes for them. Conditions are compared with the official ones, and
are then not to blame for anything else: each block gets the official streams and the official conditions, and of its
own only the branches it would skip. The output head, the guided combination and the Euler step are fed alike, and so is
scaled dot-product attention alone (`.../self_attn/sdpa`): our attention module gets the official queries, keys and
values in place of its projections, norms and rotary.

A block's streams, branches and errors live until the block is done; nothing is stored beyond that.

Axes: B sample, T token, C channel.
"""

import copy
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from parity.explain.oracle import Arbitration
from parity.isolate.error import Added, Sheet, error_of, note_of
from parity.taps.group import MODULATIONS
from parity.taps.name import BLOCK_PARTS, STREAMS
from runners.ltx23.block import BlockSkips, StreamConditions
from runners.ltx23.latents import LatentState
from runners.ltx23.stages import denoising
from runners.ltx23.stages.batch import Batch
from runners.ltx23.stages.denoising import DenoisingStage, Pair, Step
from runners.ltx23.transformer import Transformer
from runners.official.lockstep import BRANCHES, Attended, conditions_of, hear_attention
from runners.tap import listening, scope, tap

Around = Callable[[], AbstractContextManager[Any]]


@dataclass(kw_only=True)
class PassWiring:
    """How our denoising stage would run one guidance pass."""

    call: Callable[[], Pair]  # the transformer's forward with the pass's arguments
    entry: Pair | None = None  # streams before the first block, (B, T, C)
    conditions: tuple[StreamConditions, StreamConditions] | None = None  # video's and audio's
    skips: dict[int, BlockSkips] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Choice:
    """Which steps and blocks to measure; None means all of them."""

    steps: frozenset[int] | None = None
    blocks: frozenset[int] | None = None

    def step(self, index: int) -> bool:
        """Whether a step is measured."""
        return self.steps is None or index in self.steps

    def block(self, index: int) -> bool:
        """Whether a block is measured."""
        return self.blocks is None or index in self.blocks

    @property
    def only_blocks(self) -> bool:
        """Whether nothing but single blocks was asked for."""
        return self.blocks is not None


class DenoisingLockstep:
    """Measures what each part of our denoising adds, beside an official transformer that is running."""

    def __init__(
        self,
        transformer: Transformer,
        batch: Batch,
        sheet: Sheet,
        choice: Choice,
        *,
        harmless: bool,
        oracle: bool,
        around: Around = nullcontext,
    ) -> None:
        self._around = around
        self._stage = DenoisingStage(transformer)
        self._transformer = transformer
        self._batch = batch  # with the official contexts
        self._sheet = sheet
        self._choice = choice
        self._harmless = harmless
        self._oracle = oracle
        self._measured = False  # whether the running step is
        self._wiring: dict[str, PassWiring] = {}
        self._branches: dict[str, Tensor] = {}  # of the block that is running
        self._attended: dict[tuple[str, str], Attended] = {}  # in the block that is running
        self._last_streams: Pair | None = None
        self._x0: dict[str, Tensor] = {}
        self._guided: dict[str, Tensor] = {}
        self._last_guided: Pair | None = None
        self._expected: dict[str, Tensor] = {}  # our latents after the step
        self._step: tuple[Step, float, float] | None = None

    def attach(self, velocity_model: nn.Module) -> None:
        """Measure whenever a block of the official transformer has run."""
        for index, block in enumerate(velocity_model.transformer_blocks.children()):  # type: ignore[union-attr]
            block.register_forward_hook(self._after_block(index), with_kwargs=True)
            hear_attention(block, self._hear_attention)

    def begin_step(self, index: int, sigmas: Tensor, video: LatentState, audio: LatentState) -> None:
        """Find out how our denoising stage would run a step that the official one is about to."""
        self._measured = self._choice.step(index)
        self._wiring.clear()
        if not self._measured:
            return
        sigma = sigmas[index].to(self._batch.device)
        with self._around():
            rotary = self._transformer.rotary_tables(video.positions, audio.positions, self._batch.config.dtype)
            step = self._stage.step_at(index, self._batch, video, audio, sigma, rotary)
        schedule = sigmas.float().cpu()
        self._step = (step, float(schedule[index]), float(schedule[index + 1] - schedule[index]))
        with self._around(), scope(f"denoise/{index:03d}"), self._dry(self._record):
            self._stage.evaluate_stage1_guided_x0(self._batch, step, self._last_guided)

    def _hear_attention(self, branch: tuple[str, str], attended: Attended) -> None:
        if self._measured:
            self._attended[branch] = attended

    def hear(self, name: str, tensor: Tensor) -> None:
        """A tap of the official run."""
        head, _, tail = name.partition("/")
        if head != "denoise":
            return
        if name in self._expected:
            self._sheet.compare(name, tensor, self._expected.pop(name))
        if "/guided/" in tail:
            self._hear_guided(name, tensor)
        if not self._measured:
            return
        if "/block/" in tail:
            self._branches[name] = tensor
        elif "/x0/" in tail:
            self._x0[name] = tensor
            if tail.endswith("audio") and not self._choice.only_blocks:
                self._head(name.rpartition("/x0/")[0])

    # ---------------------------------------------------------------- how ours would run it

    def _record(self, call: Callable[[], Pair]) -> Pair:
        where = _scope_now()
        self._wiring[where] = wiring = PassWiring(call=call)
        last = len(self._transformer.transformer_blocks) - 1

        def stub(index: int) -> Callable[..., Pair]:
            def left_out(
                video: Tensor, audio: Tensor, at_video: StreamConditions, at_audio: StreamConditions, skips: BlockSkips
            ) -> Pair:
                if index == 0:
                    wiring.entry, wiring.conditions = (video, audio), (at_video, at_audio)
                wiring.skips[index] = skips
                return video, audio

            return left_out

        with self._blocks_as([stub(index) for index in range(last + 1)]):
            return call()

    @contextmanager
    def _dry(self, instead: Callable[[Callable[[], Pair]], Pair]) -> Iterator[None]:
        """While inside, every pass of our transformer goes to `instead`, which may call it as it is."""
        forward = self._transformer.forward

        def redirected(*arguments: Any, **options: Any) -> Pair:
            return instead(partial(forward, *arguments, **options))

        with (
            patch.object(self._transformer, "forward", redirected),
            listening(_ignore),
        ):
            yield

    @contextmanager
    def _blocks_as(self, forwards: list[Callable[..., Pair]]) -> Iterator[None]:
        with ExitStack() as stack:
            for block, forward in zip(self._transformer.transformer_blocks, forwards, strict=True):
                stack.enter_context(patch.object(block, "forward", forward))
            yield

    # ---------------------------------------------------------------- blocks

    def _after_block(self, index: int) -> Callable[..., None]:
        def measure(block: nn.Module, _args: Any, kwargs: dict[str, Any], output: Any) -> None:
            if not self._measured:
                return
            self._last_streams = (output[0].x, output[1].x)
            where = _scope_now()
            wiring = self._wiring.get(where)
            head = f"{where}/block/{index:02d}"
            branches = {name: value for name, value in self._branches.items() if name.startswith(head)}
            self._branches.clear()
            attended = dict(self._attended)
            self._attended.clear()
            if wiring is None or index not in wiring.skips:
                self._sheet.missing(head, "the candidate does not run this block in this pass")
                return
            if index == 0 and not self._choice.only_blocks:
                self._conditions(where, wiring, kwargs)
            if self._choice.block(index):
                branches |= {f"{head}/{stream}/out": streams.x for stream, streams in zip(STREAMS, output, strict=True)}
                alone = self._attention_alone(index, attended, head)
                self._block(index, block, kwargs, branches, wiring.skips[index], head, alone)
                self._attended.clear()  # of the official block that was run once more

        return measure

    def _conditions(self, where: str, wiring: PassWiring, kwargs: Mapping[str, Any]) -> None:
        assert wiring.conditions is not None and wiring.entry is not None
        for stream, ours, entry in zip(STREAMS, wiring.conditions, wiring.entry, strict=True):
            arguments = kwargs[stream]
            official = conditions_of(arguments)
            compare = self._sheet.compare
            compare(f"{where}/entry/{stream}", arguments.x, entry)
            compare(f"{where}/context/{stream}", official.context, ours.context)
            for kind in ("own", "cross"):
                tables = getattr(official.rotary, kind), getattr(ours.rotary, kind)
                compare(f"{where}/rotary/{stream}/{kind}", *(torch.stack((table.cos, table.sin)) for table in tables))
            for kind in MODULATIONS:
                values = getattr(official.modulation, kind), getattr(ours.modulation, kind)
                compare(f"{where}/modulation/{stream}/{kind}", *values)
            if official.enabled != ours.enabled:
                self._sheet.missing(
                    f"{where}/enabled/{stream}", f"reference {official.enabled}, candidate {ours.enabled}"
                )

    def _block(
        self,
        index: int,
        official: nn.Module,
        kwargs: dict[str, Any],
        branches: dict[str, Tensor],
        skips: BlockSkips,
        head: str,
        alone: Mapping[str, Added],
    ) -> None:
        """Feed block `index` of ours what the official one got, and measure every branch, `alone` first."""
        streams = {stream: kwargs[stream] for stream in STREAMS}

        def ours() -> None:
            self._transformer.transformer_blocks[index](
                streams["video"].x,
                streams["audio"].x,
                conditions_of(streams["video"]),
                conditions_of(streams["audio"]),
                skips,
            )

        truth: dict[str, Tensor] = {}
        if self._oracle:
            precise = copy.deepcopy(official).float()
            truth = _official_branches(precise, _in_fp32(kwargs), head)
            del precise
        with self._around():
            errors, notes, distances = _errors(ours, branches, truth, index)
        harmless = {}
        if self._harmless:
            with sdpa_kernel(SDPBackend.MATH):
                varied = _official_branches(official, kwargs, head)
            harmless = {name: error_of(branches[name], value) for name, value in varied.items() if name in branches}
        order = [f"{head}/{stream}/{part}" for part in BLOCK_PARTS for stream in STREAMS]
        for name in (name for name in order if name in branches or name in errors):
            if name in alone:
                self._sheet.rows.append(alone[name])
            if name not in branches or name not in errors:
                side = "candidate" if name in branches else "reference"
                self._sheet.missing(name, f"the {side} does not run this branch")
                continue
            arbitration = None
            if name in truth:
                own = error_of(truth[name], branches[name])
                arbitration = Arbitration(candidate=distances[name], official=own)
            self._sheet.rows.append(
                Added(
                    where=name,
                    error=errors[name],
                    harmless=harmless.get(name),
                    oracle=arbitration,
                    note=notes[name],
                )
            )

    def _attention_alone(self, index: int, attended: Mapping[tuple[str, str], Attended], head: str) -> dict[str, Added]:
        """Feed every attention of block `index` of ours the official queries, keys and values; rows by branch."""
        rows = {}
        for (stream, part), official in attended.items():
            module = getattr(self._transformer.transformer_blocks[index], BRANCHES[stream, part])
            branch = f"{head}/{stream}/{part}"
            if official.mask is not None:
                note = "the reference masks this attention, the candidate does not"
                rows[branch] = Added(where=f"{branch}/sdpa", error=torch.nan, note=note)
                continue
            with self._around(), _nothing_but_attention(module, official):
                ours = module(official.queries, official.keys)
            harmless = None
            if self._harmless:
                with sdpa_kernel(SDPBackend.MATH):
                    harmless = error_of(official.output, official.again())
            rows[branch] = Added(
                where=f"{branch}/sdpa",
                error=error_of(official.output, ours),
                harmless=harmless,
                note=note_of(official.output, ours),
            )
        return rows

    # ---------------------------------------------------------------- head, guidance, Euler step

    def _head(self, where: str) -> None:
        """Our output head on the last streams of the official blocks, against the official x0."""
        wiring, streams = self._wiring.get(where), self._last_streams
        if wiring is None or streams is None:
            self._sheet.missing(f"{where}/x0/video", "the candidate does not run this pass")
            return

        def last_streams(*_: Any) -> Pair:
            assert streams is not None
            return streams

        with (
            self._around(),
            self._blocks_as([last_streams] * len(self._transformer.transformer_blocks)),
            listening(_ignore),
        ):
            found = wiring.call()
        for stream, value in zip(STREAMS, found, strict=True):
            self._sheet.compare(f"{where}/x0/{stream}", self._x0[f"{where}/x0/{stream}"], value)

    def _hear_guided(self, name: str, tensor: Tensor) -> None:
        self._guided[name] = tensor
        head, _, stream = name.rpartition("/")
        if stream != "audio":
            return
        official = (self._guided[f"{head}/video"], tensor)
        if self._measured and not self._choice.only_blocks:
            self._combine_and_step(head.removesuffix("/guided"), official)
        self._last_guided = official
        self._guided.clear()
        self._x0.clear()

    def _combine_and_step(self, head: str, official: Pair) -> None:
        assert self._step is not None
        step, sigma, change = self._step

        def official_x0(_call: Callable[[], Pair]) -> Pair:
            where = _scope_now()
            return self._x0[f"{where}/x0/video"], self._x0[f"{where}/x0/audio"]

        passes = {name.rpartition("/x0/")[0] for name in self._x0}
        extra = sorted(self._wiring.keys() - passes)
        if extra:
            self._sheet.missing(extra[0], "the reference does not run this pass")
            return
        with self._around(), self._dry(official_x0):  # the official step's scope is still open
            ours = self._stage.evaluate_stage1_guided_x0(self._batch, step, self._last_guided)
        states = {"video": step.video, "audio": step.audio}
        for stream, reference, candidate in zip(STREAMS, official, ours, strict=True):
            self._sheet.compare(f"{head}/guided/{stream}", reference, candidate)
            with self._around():
                latent = denoising.advance(states[stream], reference, sigma, change).latent
            self._expected[f"{head}/latent/{stream}"] = latent


class _Given(nn.Module):
    """Stands for a projection whose result is known."""

    def __init__(self, result: Tensor) -> None:
        super().__init__()
        self._result = result

    def forward(self, _: Tensor) -> Tensor:
        """The result, whatever the input."""
        return self._result


@contextmanager
def _nothing_but_attention(module: nn.Module, official: Attended) -> Iterator[None]:
    """While inside, an attention module of ours gets official queries, keys and values, and gates and projects none."""
    stand_ins = {
        "to_q": _Given(official.queries),
        "to_k": _Given(official.keys),
        "to_v": _Given(official.values),
        "q_norm": nn.Identity(),
        "k_norm": nn.Identity(),
        "to_gate_logits": None,
        "to_out": nn.Identity(),
    }
    own = {name: getattr(module, name) for name in stand_ins}
    for name, stand_in in stand_ins.items():
        setattr(module, name, stand_in)
    try:
        yield
    finally:
        for name, part in own.items():
            setattr(module, name, part)


def _errors(
    run: Callable[[], None], branches: Mapping[str, Tensor], truth: Mapping[str, Tensor], index: int
) -> tuple[dict[str, float], dict[str, str], dict[str, float]]:
    """Run a block of ours; every branch's error against the official one, why it is nan, and against the oracle."""
    errors: dict[str, float] = {}
    notes: dict[str, str] = {}
    distances: dict[str, float] = {}

    def heard(name: str, tensor: Tensor) -> None:
        if name not in branches:
            errors[name] = torch.nan
            return
        errors[name], notes[name] = error_of(branches[name], tensor), note_of(branches[name], tensor)
        if name in truth:
            distances[name] = error_of(truth[name], tensor)

    with listening(heard), scope(f"block/{index:02d}"):
        run()
    return errors, notes, distances


def _official_branches(block: nn.Module, kwargs: dict[str, Any], head: str) -> dict[str, Tensor]:
    """Branches and outputs of an official block that is run once more, without its own hooks."""
    found: dict[str, Tensor] = {}
    with listening(found.__setitem__):  # the branches' hooks, which the run before has put there, tap
        video, audio = block.forward(**kwargs)
    return found | {f"{head}/video/out": video.x, f"{head}/audio/out": audio.x}


def _in_fp32(kwargs: Mapping[str, Any]) -> dict[str, Any]:
    def raised(value: Any) -> Any:
        if isinstance(value, Tensor) and value.is_floating_point():
            return value.float()
        if isinstance(value, tuple):
            return tuple(raised(item) for item in value)
        return value

    return {
        name: replace(value, **{key: raised(item) for key, item in vars(value).items()}) if name in STREAMS else value
        for name, value in kwargs.items()
    }


def _scope_now() -> str:
    """The scope that a tap would be heard under."""
    heard: list[str] = []
    with listening(lambda name, _: heard.append(name)):
        tap("here", torch.empty(0))
    return heard[0].removesuffix("here").removesuffix("/")


def _ignore(_name: str, _tensor: Tensor) -> None:
    """A listener for what is run only to see how it is wired."""
