"""A defect: a known bug, put into the native model at run time without touching its files.

A defect patches a class, a function or loaded weights while a run lasts, and counts how often its own code ran: one
that was never reached is an error of the catalogue, not a defect that survived.
"""

import functools
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Literal, TypedDict, TypeVar, Unpack
from unittest.mock import patch

from torch import nn

from parity.defects.variant import AS_IS, Variant
from runners.errors import RunnerError
from runners.ltx23 import pipeline

ModuleT = TypeVar("ModuleT", bound=nn.Module)

# What a defect is bound to spoil so that a viewer or listener could tell. It is decided from what the defect does,
# before anything is measured, and it makes the defect a target of the metrics that look there. Weak defects, which may
# drown in rounding on the way to the outputs, have none: they are left to the comparison of single modules.
Facet = Literal["video_latent", "frames", "audio_latent", "audio", "audio_lag", "audio_level", "av_offset"]
VIDEO: frozenset[Facet] = frozenset({"video_latent", "frames"})
AUDIO: frozenset[Facet] = frozenset({"audio_latent", "audio"})
BOTH = VIDEO | AUDIO
SUBTLE: frozenset[Facet] = frozenset()


class Reach:
    """Counts how often a defect's code ran in place of the right one."""

    def __init__(self) -> None:
        self.hits = 0

    def hit(self) -> None:
        """Count once."""
        self.hits += 1


Apply = Callable[[Reach], AbstractContextManager[Any]]


@dataclass(frozen=True, kw_only=True)
class Defect:
    """One known bug."""

    id: str
    component: str  # module of runners.ltx23 in which it lies, without that prefix
    description: str
    first_taps: tuple[str, ...]  # glob patterns: the first tap of a free run that departs is one of these
    apply: Apply
    shows_in: frozenset[Facet] = SUBTLE
    variant: Variant = AS_IS  # what a case must have for the defect to matter
    alone: bool = True  # whether single parts can be tried; not if the whole run has another dtype or other passes
    isolated_at: tuple[str, ...] = ()  # the same for places of an isolation; empty: as `first_taps`

    @property
    def places(self) -> tuple[str, ...]:
        """Glob patterns of the places of an isolation where the defect must show first."""
        return self.isolated_at or self.first_taps


class Facts(TypedDict, total=False):
    """The fields that a decorated function may give its Defect beside its name, docstring and place."""

    shows_in: frozenset[Facet]
    variant: Variant
    alone: bool
    isolated_at: tuple[str, ...]


@contextmanager
def present(defect: Defect, must_reach: bool = True) -> Iterator[None]:
    """Run with a defect in the model. A trial of single parts does not reach every defect: say so with `must_reach`.

    Raises: RunnerError after an orderly run in which the defect's code was never reached.
    """
    reach = Reach()
    with defect.apply(reach):
        yield
    if must_reach:
        require_reached(defect, reach)


def require_reached(defect: Defect, reach: Reach) -> None:
    """Refuse a run that never came to a defect's code. Raises: RunnerError."""
    if not reach.hits:
        raise RunnerError(
            f"Defect {defect.id!r} was never reached: the code it patches did not run in this case. Run it on a case "
            f"that it matters to ({defect.variant.name}), or mend the defect."
        )


def wrapped(
    owner: object, name: str, around: Callable[..., Any], when: Callable[..., bool] = lambda *_, **__: True
) -> Apply:
    """Replace `owner.name`: `around` gets the original and the call's arguments, where `when` holds for these."""

    def apply(reach: Reach) -> AbstractContextManager[Any]:
        original = getattr(owner, name)

        @functools.wraps(original)
        def changed(*args: Any, **kwargs: Any) -> Any:
            if not when(*args, **kwargs):
                return original(*args, **kwargs)
            reach.hit()
            return around(original, *args, **kwargs)

        return patch.object(owner, name, changed)

    return apply


def edited(kind: type[ModuleT], edit: Callable[[ModuleT], object]) -> Apply:
    """Change a component once its weights are loaded: the weights, or how one of its modules computes."""

    def apply(reach: Reach) -> AbstractContextManager[Any]:
        original = vars(pipeline)["load"]  # perhaps with another edit around it

        def changed(module: nn.Module, *args: Any) -> nn.Module:
            loaded: nn.Module = original(module, *args)
            if isinstance(loaded, kind):
                edit(loaded)
                reach.hit()
            return loaded

        return patch.object(pipeline, "load", changed)

    return apply


def together(*parts: Apply) -> Apply:
    """Several patches that make up one defect."""

    @contextmanager
    def entered(reach: Reach) -> Iterator[None]:
        with ExitStack() as stack:
            for part in parts:
                stack.enter_context(part(reach))
            yield

    return entered


def replaces(
    owner: object,
    name: str,
    *first_taps: str,
    component: str | None = None,
    when: Callable[..., bool] = lambda *_, **__: True,
    **facts: Unpack[Facts],
) -> Callable[[Callable[..., Any]], Defect]:
    """A decorator: the function stands in for `owner.name`, as `wrapped` says, and becomes a Defect of its own name.

    Its docstring describes it. `component` is the module that defines what is replaced unless the bug lies elsewhere.
    """
    home = component or getattr(owner, name).__module__
    return lambda around: _described(around, wrapped(owner, name, around, when), home, first_taps, facts)


def edits(
    kind: type[ModuleT], *first_taps: str, component: str | None = None, **facts: Unpack[Facts]
) -> Callable[[Callable[[ModuleT], object]], Defect]:
    """A decorator: the function changes a loaded component, as `edited` says, and becomes a Defect of its own name."""
    home = component or kind.__module__
    return lambda edit: _described(edit, edited(kind, edit), home, first_taps, facts)


def _described(
    function: Callable[..., Any], apply: Apply, home: str, first_taps: tuple[str, ...], facts: Facts
) -> Defect:
    sentence = (function.__doc__ or "").removesuffix(".")
    if sentence[1:2].islower() or sentence[1:2] == " ":  # no abbreviation
        sentence = sentence[0].lower() + sentence[1:]
    return Defect(
        id=function.__name__,
        component=home.removeprefix("runners.ltx23."),
        description=sentence,
        first_taps=first_taps,
        apply=apply,
        **facts,
    )


def defects_in(*modules: ModuleType) -> tuple[Defect, ...]:
    """The defects that modules define, in their order; no two may share an id."""
    defects = [value for module in modules for value in vars(module).values() if isinstance(value, Defect)]
    ids = [defect.id for defect in defects]
    assert len(ids) == len(set(ids)), f"defects given twice: {sorted({name for name in ids if ids.count(name) > 1})}"
    return tuple(defects)
