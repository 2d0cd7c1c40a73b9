"""The error that one block of ours adds, fed what the official block got, against every branch of the official one.

Scaled dot-product attention is measured alone as well (`.../self_attn/sdpa`): our attention module gets the official
queries, keys and values in place of its projections, norms and rotary.

Axes: B sample, T token, C channel.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from parity.explain.oracle import Arbitration
from parity.isolate.choice import Choice
from parity.isolate.error import ErrorTable, IsolatedError, error_of, note_of
from parity.taps.name import BLOCK_PARTS, STREAMS
from runners.ltx23.block import BlockSkips, StreamConditions
from runners.ltx23.branches import BRANCHES
from runners.official.lockstep import AttentionCall, conditions_of
from runners.official.raised import raised
from runners.tap import listening, scope


@dataclass(frozen=True, kw_only=True)
class OfficialBlock:
    """One run of an official block."""

    index: int
    place: str  # below the pass: block/00
    head: str  # of its taps: denoise/000/cond/block/00
    module: nn.Module
    arguments: dict[str, Any]  # what it got, by stream and beyond
    branches: Mapping[str, Tensor]  # what it computed, by tap; each (B, T, C)
    attended: Mapping[tuple[str, str], AttentionCall]  # its attentions, by stream and part

    def in_native_terms(self) -> tuple[Tensor, Tensor, StreamConditions, StreamConditions]:
        """Its inputs in native's terms: both streams, (B, T, C), and the conditions of both."""
        video, audio = (self.arguments[stream] for stream in STREAMS)
        return video.x, audio.x, conditions_of(video), conditions_of(audio)

    def again(self) -> dict[str, Tensor]:
        """Its branches, computed once more with whatever kernels torch takes now."""
        return _branches(self.module, self.arguments, self.head)

    def computed_in(self, dtype: torch.dtype) -> dict[str, Tensor]:
        """Its branches, computed with its weights and what it got in another dtype."""
        with raised(dtype, self.module):
            return _branches(self.module, _in_dtype(self.arguments, dtype), self.head)


def measure_block(
    official: OfficialBlock, ours: nn.Module, skips: BlockSkips, table: ErrorTable, choice: Choice
) -> None:
    """Feed our block what the official one got, with the branches left out that ours would leave out.

    Writes a row for every branch of either, in the order of the block, attention alone before the branch it is in.
    """
    alone = _attention_alone(official, ours, choice)
    exact = official.computed_in(torch.float32) if choice.oracle else {}
    floors = _floors(official) if choice.harmless else {}
    rows: dict[str, IsolatedError] = {}

    def heard(name: str, tensor: Tensor) -> None:
        rows[name] = _row(name, official.branches.get(name), tensor, exact.get(name), floors.get(name))

    with choice.around(), listening(heard), scope(official.place):
        ours(*official.in_native_terms(), skips)
    for name in (f"{official.head}/{stream}/{part}" for part in BLOCK_PARTS for stream in STREAMS):
        if name in alone and (name in rows or name in official.branches):
            table.rows.append(alone[name])
        if name in rows:
            table.rows.append(rows[name])
        elif name in official.branches:
            table.missing(name, "the candidate does not run this branch")


def _row(name: str, official: Tensor | None, ours: Tensor, exact: Tensor | None, floor: float | None) -> IsolatedError:
    if official is None:
        return IsolatedError(where=name, error=torch.nan, note="the reference does not run this branch")
    return IsolatedError(
        where=name,
        error=error_of(official, ours),
        harmless=floor,
        oracle=None
        if exact is None
        else Arbitration(candidate=error_of(exact, ours), official=error_of(exact, official)),
        note=note_of(official, ours),
    )


def _floors(official: OfficialBlock) -> dict[str, float]:
    """The error of each branch with another attention kernel."""
    with sdpa_kernel(SDPBackend.MATH):
        varied = official.again()
    return {name: error_of(tensor, varied[name]) for name, tensor in official.branches.items() if name in varied}


def _attention_alone(official: OfficialBlock, ours: nn.Module, choice: Choice) -> dict[str, IsolatedError]:
    """Feed every attention of our block the official queries, keys and values; rows by branch."""
    rows = {}
    for branch, attended in official.attended.items():
        name = f"{official.head}/{'/'.join(branch)}"
        if attended.mask is not None:
            note = "the reference masks this attention, the candidate does not"
            rows[name] = IsolatedError(where=f"{name}/sdpa", error=torch.nan, note=note)
            continue
        module = getattr(ours, BRANCHES[branch])
        with choice.around(), _nothing_but_attention(module, attended):
            found = module(attended.queries, attended.keys)
        harmless = None
        if choice.harmless:
            with sdpa_kernel(SDPBackend.MATH):
                harmless = error_of(attended.output, attended.again())
        rows[name] = IsolatedError(
            where=f"{name}/sdpa",
            error=error_of(attended.output, found),
            harmless=harmless,
            note=note_of(attended.output, found),
        )
    return rows


class _Given(nn.Module):
    """Stands for a projection whose result is known."""

    def __init__(self, result: Tensor) -> None:
        super().__init__()
        self._result = result

    def forward(self, _: Tensor) -> Tensor:
        """The result, whatever the input."""
        return self._result


@contextmanager
def _nothing_but_attention(module: nn.Module, official: AttentionCall) -> Iterator[None]:
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


def _branches(block: nn.Module, arguments: dict[str, Any], head: str) -> dict[str, Tensor]:
    """Branches and outputs of an official block that is run once more, without its own hooks."""
    found: dict[str, Tensor] = {}
    with listening(found.__setitem__):  # the branches' hooks, which the run before has put there, tap
        video, audio = block.forward(**arguments)
    return found | {f"{head}/video/out": video.x, f"{head}/audio/out": audio.x}


def _in_dtype(arguments: Mapping[str, Any], dtype: torch.dtype) -> dict[str, Any]:
    def raised(value: Any) -> Any:
        if isinstance(value, Tensor) and value.is_floating_point():
            return value.to(dtype)
        if isinstance(value, tuple):
            return tuple(raised(item) for item in value)
        return value

    return {
        name: replace(value, **{key: raised(item) for key, item in vars(value).items()}) if name in STREAMS else value
        for name, value in arguments.items()
    }
