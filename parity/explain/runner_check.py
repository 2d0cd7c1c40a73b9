"""A runner under construction, checked in seconds: what it hands over is held to the case, then to the native model.

Each kind of mistake has a name of its own, so that a tensor laid out otherwise is not taken for a wrong number, nor a
pass tapped under another's name for a wrong pass. The runner runs once for each request; all of its taps are kept, so
the case should be a small one.
"""

import difflib
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import permutations
from typing import Any, Final, Literal

import torch
from torch import Tensor

from parity.runs.execute import engine_errors
from parity.taps.dataflow import Dataflow
from parity.taps.form import TEXT_WINDOW, shape_of
from parity.taps.name import place_of
from parity.taps.pattern import chosen
from runners.case import Case
from runners.clock import Quiet
from runners.closed_input import closed_input
from runners.errors import RunnerError
from runners.protocol import Capabilities, Outcome, Runner
from runners.tap import listening

APART: Final = 0.25  # relative L2 beyond which two tensors are not one thing computed a little differently
ALIKE: Final = 0.1  # and below which a row of one is taken for a row of the other
LONGEST_MATCHED: Final = 4096  # rows that are matched one by one

Kind = Literal[
    "protocol",  # an attribute that a runner must have
    "output",  # shape or dtype of what it hands back
    "unknown_tap",  # a name that the case does not have
    "missing_tap",  # one that its capabilities offer
    "repeated_tap",  # one that is heard twice
    "undeclared_tap",  # one that its capabilities do not offer
    "shape",
    "dtype",
    "not_finite",
    "order",  # heard before what it is computed from
    "layout",  # the native model's values, laid out otherwise
    "other_pass",  # the values of another guidance pass
    "value",  # departs here, while its inputs do not
    "switch",  # what a declared switch does not do
]


@dataclass(frozen=True, kw_only=True)
class Flaw:
    """One thing that is wrong: where, what arrived, what was wanted, and what would explain it."""

    kind: Kind
    where: str
    got: str
    wanted: str
    hint: str = ""


@dataclass(frozen=True, kw_only=True)
class RunnerCheck:
    """The result of a check: what is wrong, in data-flow order, and how much was looked at."""

    runner: str
    case_id: str
    taps: int  # heard, and of the case
    taps_of_case: int
    flaws: tuple[Flaw, ...]
    worst: tuple[str, float] | None  # the tap farthest from the native model, by relative L2


@dataclass
class Heard:
    """One run: its outcome, and its taps in the order in which they came."""

    outcome: Outcome
    taps: dict[str, Tensor] = field(default_factory=dict)
    repeated: list[str] = field(default_factory=list)


def protocol_flaws(runner: Any) -> list[Flaw]:
    """The parts of the protocol that a runner lacks; with any of these it cannot be run."""
    flaws = []
    if not isinstance(getattr(runner, "name", None), str):
        flaws.append(_protocol("name", getattr(runner, "name", None), "a string"))
    if not isinstance(getattr(runner, "capabilities", None), Capabilities):
        flaws.append(_protocol("capabilities", getattr(runner, "capabilities", None), "a Capabilities"))
    for name in ("__enter__", "__exit__", "run"):
        if not callable(getattr(type(runner), name, None)):
            flaws.append(_protocol(name, getattr(type(runner), name, None), "a method"))
    return flaws


def hear(runner: Runner, case: Case) -> Heard:
    """Run a case with every tap kept, on the CPU. Raises: RunnerError for what the runner raises, or no Outcome."""
    taps: dict[str, Tensor] = {}
    repeated: list[str] = []

    def keep(name: str, tensor: Tensor) -> None:
        if name in taps:
            repeated.append(name)
        else:
            taps[name] = tensor.detach().cpu().clone()

    with ExitStack() as stack:
        stack.enter_context(engine_errors(runner))
        stack.enter_context(closed_input())
        entered = stack.enter_context(runner)
        if not callable(getattr(entered, "run", None)):
            raise RunnerError(f"__enter__ of {runner.name!r} returned {type(entered).__name__}; return self.")
        stack.enter_context(listening(keep))
        outcome = entered.run(case, Quiet())
    if not isinstance(outcome, Outcome):
        raise RunnerError(f"run of {runner.name!r} returned {type(outcome).__name__}; return an Outcome.")
    return Heard(outcome=outcome, taps=taps, repeated=repeated)


def check_run(
    heard: Heard, truth: Heard, capabilities: Capabilities, case: Case, flow: Dataflow, config: Mapping[str, Any]
) -> tuple[list[Flaw], tuple[str, float] | None]:
    """Hold one run to its case and to the native model's run of it.

    Args:
        heard: the run under check.
        truth: the native model's.
        capabilities: of the runner: taps it does not offer are not missed.
        case: the request of both.
        flow: its taps.
        config: the checkpoint's configuration.
    Returns: the flaws, and the tap farthest from the native model's.
    """
    flaws = _outputs(heard.outcome, truth.outcome)
    flaws += _names(heard, capabilities, flow)
    flaws += _order(heard.taps, flow)
    shaped: dict[str, float] = {}
    departed: set[str] = set()  # taps that are far off, and those not heard that are made of them
    for tap in flow.taps:
        inherited = not departed.isdisjoint(flow.inputs_of(tap))
        if tap not in heard.taps:
            departed |= {tap} if inherited else set()
            continue
        mine, theirs = heard.taps[tap], truth.taps[tap]
        if found := _form(tap, mine, theirs, shape_of(place_of(tap), case, config)):
            flaws.append(found)
            departed.add(tap)
            continue
        shaped[tap] = relative_l2_of_tensors(mine, theirs)
        if not shaped[tap] <= APART:
            departed.add(tap)
            if not inherited:
                flaws.append(_departure(tap, mine, truth.taps, shaped[tap]))
    worst = max(shaped.items(), key=lambda one: one[1], default=None)
    return flaws, worst


def switch_flaws(name: str, before: Heard, after: Heard) -> list[Flaw]:
    """The effects that V2A off lacks: audio must no longer attend to video in any pass, and the sound must change."""
    crossing = [tap for tap in after.taps if tap.endswith("/audio/av_attn")]
    flaws = []
    if crossing:
        flaws.append(
            Flaw(
                kind="switch",
                where=name,
                got=f"{len(crossing)} taps of video-to-audio attention are still heard, {crossing[0]} first",
                wanted="none: the flag is for all four passes",
            )
        )
    if torch.equal(before.outcome.audio_latent, after.outcome.audio_latent):
        flaws.append(
            Flaw(
                kind="switch", where=name, got="the sound has the same bits with it as without", wanted="another sound"
            )
        )
    return flaws


def relative_l2_of_tensors(mine: Tensor, theirs: Tensor) -> float:
    """Relative L2 of two tensors of one shape, in float64; nan where either is not finite."""
    truth = theirs.double()
    return float((mine.double() - truth).norm() / truth.norm().clamp(min=1e-30))


def layout_hint(mine: Tensor, theirs: Tensor) -> str:
    """The order in which one tensor holds the values of another of the same shape: "" where they are other values."""
    if torch.equal(mine.flatten().double().sort().values, theirs.flatten().double().sort().values):
        for axis in range(mine.ndim):
            if _same_rows(mine, theirs, axis):
                return f"the same values, axis {axis} in another order"
        return "the same values, laid out otherwise"
    for axis in range(mine.ndim):
        if _same_rows(mine, theirs, axis):
            return f"nearly the same values, axis {axis} in another order"
    return ""


def _protocol(name: str, value: object, wanted: str) -> Flaw:
    got = "nothing" if value is None else type(value).__name__
    return Flaw(kind="protocol", where=name, got=got, wanted=wanted)


def _outputs(mine: Outcome, theirs: Outcome) -> list[Flaw]:
    flaws = []
    for name in ("video_frames", "audio_waveform", "video_latent", "audio_latent"):
        one, other = getattr(mine, name), getattr(theirs, name)
        if not isinstance(one, Tensor):
            flaws.append(Flaw(kind="output", where=name, got=type(one).__name__, wanted="a tensor"))
        elif one.shape != other.shape or one.dtype != other.dtype:
            hint = _shape_hint(tuple(one.shape), tuple(other.shape))
            flaws.append(Flaw(kind="output", where=name, got=_said(one), wanted=_said(other), hint=hint))
        elif not bool(one.isfinite().all()):
            flaws.append(Flaw(kind="not_finite", where=name, got="NaN or infinity", wanted="finite values"))
    for name in ("frame_rate", "sample_rate_hz"):
        if getattr(mine, name) != getattr(theirs, name):
            flaws.append(
                Flaw(kind="output", where=name, got=str(getattr(mine, name)), wanted=str(getattr(theirs, name)))
            )
    schedule, wanted = mine.sigmas.cpu().float(), theirs.sigmas.float()
    if schedule.shape != wanted.shape or not torch.allclose(schedule, wanted):
        flaws.append(Flaw(kind="output", where="sigmas", got=_values(schedule), wanted=_values(wanted)))
    return flaws


def _names(heard: Heard, capabilities: Capabilities, flow: Dataflow) -> list[Flaw]:
    pattern = " ".join(capabilities.taps)
    flaws = []
    unheard = [tap for tap in flow.taps if tap not in heard.taps]
    for tap in heard.taps:
        if tap not in flow:
            close = difflib.get_close_matches(tap, unheard, n=1, cutoff=0.5)
            hint = f"perhaps {close[0]}" if close else ""
            flaws.append(
                Flaw(kind="unknown_tap", where=tap, got="a name that this case does not have", wanted="", hint=hint)
            )
        elif not chosen(tap, pattern):
            flaws.append(
                Flaw(kind="undeclared_tap", where=tap, got=f"capabilities offer {pattern!r}", wanted="it there")
            )
    flaws += [
        Flaw(kind="repeated_tap", where=tap, got="heard twice", wanted="once") for tap in dict.fromkeys(heard.repeated)
    ]
    missing = [tap for tap in unheard if chosen(tap, pattern)]
    if missing:
        flaws.append(
            Flaw(
                kind="missing_tap",
                where=missing[0],
                got=f"{len(missing)} taps that capabilities offer were not heard, this one first",
                wanted=f"them, or capabilities that do not offer them (now {pattern!r})",
            )
        )
    return flaws


def _order(taps: Iterable[str], flow: Dataflow) -> list[Flaw]:
    when = {tap: index for index, tap in enumerate(taps)}
    for tap in (tap for tap in when if tap in flow):
        late = [one for one in flow.inputs_of(tap) if when.get(one, -1) > when[tap]]
        if late:
            wanted = f"after {late[0]}, from which it is computed"
            return [Flaw(kind="order", where=tap, got=f"heard before {late[0]}", wanted=wanted)]
    return []


def _form(tap: str, mine: Tensor, theirs: Tensor, wanted: tuple[int | None, ...]) -> Flaw | None:
    fits = mine.ndim == len(wanted) and all(size in (None, got) for size, got in zip(wanted, mine.shape, strict=True))
    if not fits or mine.shape != theirs.shape:
        hint = _shape_hint(tuple(mine.shape), tuple(theirs.shape))
        return Flaw(kind="shape", where=tap, got=_said(mine), wanted=_said(theirs), hint=hint)
    if mine.dtype != theirs.dtype:
        return Flaw(kind="dtype", where=tap, got=_said(mine), wanted=_said(theirs))
    if not bool(mine.isfinite().all()):
        return Flaw(kind="not_finite", where=tap, got="NaN or infinity", wanted="finite values")
    return None


def _shape_hint(mine: tuple[int, ...], theirs: tuple[int, ...]) -> str:
    if len(mine) == len(theirs) and TEXT_WINDOW in mine and mine[:1] == theirs[:1] and len(mine) == 4:
        return "the padding is still in it: take it out with real_tokens"
    if mine == theirs[1:]:
        return "the sample axis is missing: unsqueeze(0)"
    for order in permutations(range(len(mine))):
        if len(mine) == len(theirs) and tuple(mine[axis] for axis in order) == theirs and mine != theirs:
            return f"axes exchanged: permute{order}"
    if torch.Size(mine).numel() == torch.Size(theirs).numel():
        return "the same number of values: reshape it"
    if len(mine) == len(theirs) and mine[1:] == theirs[1:]:
        return f"{mine[0]} samples at once: tap each pass by itself, under its own name"
    return ""


def _departure(tap: str, mine: Tensor, truth: Mapping[str, Tensor], error: float) -> Flaw:
    theirs = truth[tap]
    if hint := layout_hint(mine, theirs):
        return Flaw(kind="layout", where=tap, got=hint, wanted=f"the order of the table (relative L2 {error:.2g})")
    place = place_of(tap)
    if place.guidance_pass is not None:
        for other in ("cond", "uncond", "perturbed", "isolated"):
            name = tap.replace(f"/{place.guidance_pass}/", f"/{other}/", 1)
            if name != tap and name in truth and truth[name].shape == mine.shape:
                near = relative_l2_of_tensors(mine, truth[name])
                if near < min(ALIKE, error / 3):
                    return Flaw(kind="other_pass", where=tap, got=f"the values of {name}", wanted="its own")
    return Flaw(
        kind="value",
        where=tap,
        got=f"relative L2 {error:.2g} from the native model, though nothing before it departs",
        wanted=f"at most {APART:g}",
    )


def _same_rows(mine: Tensor, theirs: Tensor, axis: int) -> bool:
    """True if the slices along an axis are those of the other tensor in another order, within ALIKE."""
    count = mine.shape[axis]
    if not 1 < count <= LONGEST_MATCHED:
        return False
    rows, others = (one.movedim(axis, 0).reshape(count, -1).float() for one in (mine, theirs))
    if rows.shape[1] < 2:  # single values match by chance
        return False
    distance, nearest = torch.cdist(rows, others).min(dim=1)
    scale = others[nearest].norm(dim=1).clamp(min=1e-30)
    return bool((distance <= ALIKE * scale).all()) and len(set(nearest.tolist())) == count


def _said(tensor: Tensor) -> str:
    return f"{tuple(tensor.shape)} {str(tensor.dtype).removeprefix('torch.')}"


def _values(tensor: Tensor) -> str:
    return ", ".join(f"{value:.4g}" for value in tensor.flatten()[:6].tolist())
