"""What harmless rewrites add to parts that are fed the reference's own inputs: the floor of isolated errors.

Places of one kind (the same branch in every step, pass and block) share a floor, the largest seen. Where no rewrite
moves a bit (token masks, positions, rotary tables, noise, schedule) there is none: such a place must be equal.
"""

import itertools
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from parity.judge.limit import MARGIN
from parity.trial.added_error import Added
from parity.trial.alone import added_alone
from parity.trial.rewrites import REWRITES, rewritten
from runners.case import Case
from runners.clock import STAGES
from runners.weights import Weights

_KINDS: Final = (
    (re.compile(r"^denoise/\d+/(cond|uncond|perturbed|isolated)/"), "denoise/*/*/"),
    (re.compile(r"^denoise/\d+/"), "denoise/*/"),
    (re.compile(r"/block/\d+/"), "/block/*/"),
    (re.compile(r"^(text|connector|image)/[^/]+/"), r"\1/*/"),
)


def kind_of(where: str) -> str:
    """A place without its step, pass, block, prompt and picture."""
    for pattern, name in _KINDS:
        where = pattern.sub(name, where)
    return where


@dataclass(frozen=True, kw_only=True)
class IsolatedFloor:
    """Largest harmless error of every kind of place, relative L2."""

    by_kind: Mapping[str, float]

    def bound(self, where: str) -> float:
        """What a place may add: `MARGIN` times the floor. Nothing where the floor is zero or was not measured."""
        return MARGIN * self.by_kind.get(kind_of(where), 0.0)

    def culprits(self, rows: Sequence[Added]) -> tuple[Added, ...]:
        """Rows beyond their bound, and those that could not be compared, in data-flow order."""
        return tuple(row for row in rows if math.isnan(row.error) or row.error > self.bound(row.where))


def measure_isolated_floor(weights: Weights, cases: Sequence[Case], say: Callable[[str], None]) -> IsolatedFloor:
    """Run every rewrite in isolation on every case. Raises: RunnerError if one was never reached."""
    by_kind: dict[str, float] = {}
    for case, rewrite in itertools.product(cases, REWRITES):
        say(f"floor of isolated errors: {rewrite.description}")
        with rewritten(rewrite):
            rows = added_alone(weights, case, STAGES)
        for row in rows:
            kind = kind_of(row.where)
            by_kind[kind] = max(by_kind.get(kind, 0.0), row.error)
    return IsolatedFloor(by_kind=by_kind)
