"""The official release that a run follows and the switches that differ from it, decided stage by stage.

At each site in data-flow order only the switches that can first show there are tried, all others standing as found so
far. The native model computes the site at each of those settings, and the one nearest to the run is kept. Then each
switch is flipped alone: taps that do not move cannot tell it; else the run's distance with and without the flip does.

* **certain**: with the switch as found, every tap that it moves there equals the run's in every bit.
* **likely**: it is off by rounding of its own, but at the taps that the switch moves, the error (root mean square of
  relative L2) at the setting found is at most 1 / `FACTOR` of the error with the switch flipped.
* **undecided**: the run's other differences drown it. It is counted as the case's release has it.
* **idle**: the case cannot show it, because nothing in it is concerned or because it moves no bit here.

Where no setting of a site has the run's bits and a tap departs that nothing before it explains, the defects of ports
that act there (`parity.identify.port_defects`) are tried too: each alone, then two together, with every combination of
the site's switches. One is kept if it is certain or likely as a switch is, and if nothing else that was tried without
it comes as near; of several that do the same, the first is named and the others with it. None is tried elsewhere, so a
run that switches explain is never asked for a defect.

A setting that changes is carried back through the earlier sites until nothing changes any more, so a batch that blurs
what stands before it does not spoil the answer.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Final, Literal

from parity.diff.sketches import relative_l2
from parity.identify.behaviours import BEHAVIOURS, SITES, Behaviour, Setting, setting_of
from parity.identify.port_defects import PORT_DEFECTS, may_go_together
from parity.identify.replay import Replay, Taps
from parity.taps.name import group_of
from parity.taps.pattern import chosen
from parity.trace.sketch import TapSketch
from runners.case import Case
from runners.releases import RELEASES

Verdict = Literal["certain", "likely", "undecided", "idle"]
FACTOR: Final = 2.0
MISSING: Final = 2.0  # error of a tap that one side lacks, or that has another shape or no finite value
EXHAUSTIVE: Final = 3  # switches of one site of which every combination is tried; of more, flips of one and of two
MOST_TRIED: Final = 64  # settings of one site, where not even that finds equal bits
BASES_OF_PAIRS: Final = 2  # combinations of switches, the nearest with one defect, to which two are added
ROUNDS: Final = 4


SWITCHES: Final = BEHAVIOURS | PORT_DEFECTS
_NO_BIT: Final = "it moves no bit in this case"


def _departed(errors: Mapping[str, float]) -> list[str]:
    return [tap for tap, error in errors.items() if error > 0]


@dataclass(frozen=True, kw_only=True)
class BehaviourDecision:
    """The decision on one switch. `error` and `flipped_error` are root mean squares over the taps that it moves."""

    switch: Behaviour
    on: bool
    verdict: Verdict
    reason: str = ""  # of an idle or undecided one
    site: str | None = None
    tap: str | None = None  # the first one that it moves
    error: float = math.nan
    flipped_error: float = math.nan
    as_near: tuple[Behaviour, ...] = ()  # of a defect: those that would do the same to the run


@dataclass(frozen=True, kw_only=True)
class RunUnderTest:
    """The run under test as far as it is known: sketches by tap, outputs among them."""

    taps: Mapping[str, TapSketch]
    pattern: str | None  # what its trace was asked to record
    traced: bool

    def wants(self, tap: str, groups: frozenset[str]) -> bool:
        """True if a tap that the native model leaves should be here too."""
        if tap in self.taps:
            return True
        return self.traced and chosen(tap, self.pattern) and group_of(tap) in groups


class Search:
    """Finds the setting that explains a run best."""

    def __init__(
        self,
        replay: Replay,
        observed: RunUnderTest,
        case: Case,
        dtype: str,
        say: Callable[[str], None] = lambda _: None,
        own_departures: Callable[[Mapping[str, float]], Iterable[str]] = _departed,
    ) -> None:
        """Prepare.

        Args:
            replay: the native model.
            observed: the run.
            case: the run's.
            dtype: the run's.
            say: told each site that is begun.
            own_departures: of the errors of taps those that nothing before them explains; by default all that depart.
        """
        self._replay, self._observed, self._say = replay, observed, say
        self._own_departures = own_departures
        self._groups = frozenset(group_of(tap) for tap in observed.taps)
        self._declared = setting_of(case.reference if case.reference in RELEASES else next(iter(RELEASES)))
        self._idle = {name: why for name, one in SWITCHES.items() if (why := one.idle(case, dtype)) is not None}

    def search(self) -> tuple[Setting, dict[str, BehaviourDecision]]:
        """Go through the sites until the setting stands."""
        setting = self._declared
        decisions: dict[str, BehaviourDecision] = {}
        for _ in range(ROUNDS):
            before = setting
            setting, decisions = self._round(setting)
            if setting == before:
                break
        return setting, decisions

    def errors(self, site: str, setting: Setting) -> dict[str, float]:
        """Relative L2 of each tap of a site between the native model at a setting and the run; 0 for equal bits."""
        ours, theirs = self._replay.taps(site, setting), self._observed.taps
        errors = {}
        for tap in (*ours, *(tap for tap in theirs if self._replay.at(site, tap) and tap not in ours)):
            if tap in ours and tap in theirs:
                errors[tap] = _error(ours[tap], theirs[tap])
            elif tap not in ours or self._observed.wants(tap, self._groups):
                errors[tap] = MISSING
        return errors

    def _round(self, setting: Setting) -> tuple[Setting, dict[str, BehaviourDecision]]:
        decisions: dict[str, BehaviourDecision] = {}
        hidden: set[str] = set()  # what moves only taps that were not recorded, so far
        errors: dict[str, float] = {}
        for site in SITES:
            pending = [
                name
                for name, switch in BEHAVIOURS.items()
                if name not in self._idle
                and name not in decisions
                and (site in switch.sites or (site == "denoising" and name in hidden))
            ]
            defects = [name for name, one in PORT_DEFECTS.items() if site in one.sites and name not in self._idle]
            if not pending and not defects:
                continue
            self._say(site)
            setting = self._best(site, setting, pending)
            if defects:
                setting, found_defects = self._with_defects(site, setting, pending, defects, errors)
                decisions |= found_defects
                errors |= self.errors(site, setting)
            for name in pending:
                found = self._tell(site, setting, name)
                if found is None:
                    if site not in ("frames", "sound") and self._moves(site, setting, name):
                        hidden.add(name)
                    continue
                decisions[name] = found
                if found.verdict == "undecided":
                    setting = setting - {name} | (self._declared & {name})
        for name, switch in BEHAVIOURS.items():
            if name not in decisions:
                reason = self._idle[name] if name in self._idle else self._unseen(switch, setting)
                verdict: Verdict = "idle" if name in self._idle or reason == _NO_BIT else "undecided"
                decisions[name] = BehaviourDecision(switch=switch, on=name in setting, verdict=verdict, reason=reason)
                setting = setting - {name} | (self._declared & {name})
        return setting, {name: decisions[name] for name in SWITCHES if name in decisions}

    def _with_defects(
        self, site: str, start: Setting, pending: list[str], defects: list[str], before: Mapping[str, float]
    ) -> tuple[Setting, dict[str, BehaviourDecision]]:
        """The setting that explains a site best with defects, where none without does; and the decisions on these."""
        start = start - frozenset(defects)
        errors = self.errors(site, start)
        if not any(tap in errors for tap in self._own_departures({**before, **errors})):
            return start, {}
        # Not only these: a switch that was set to make up for a defect hides where the defect first shows.
        departed = set(_departed(errors))
        # From two settings: what a defect changes need not run at all where a switch was set in its place.
        declared = start - frozenset(pending) | (self._declared & frozenset(pending))
        origins = [start] if declared == start else [start, declared]

        def moves_departed(origin: Setting, name: str) -> bool:
            return bool(_moved(self._replay.taps(site, origin), self._replay.taps(site, origin ^ {name})) & departed)

        concerned = [name for name in defects if any(moves_departed(origin, name) for origin in origins)]
        switched = [name for name in pending if moves_departed(start, name)]
        flips = [
            frozenset(some)
            for count in range(min(len(switched), EXHAUSTIVE) + 1)
            for some in combinations(switched, count)
        ]
        bases = [start ^ flipped for flipped in flips]
        scores: dict[Setting, float] = {}

        def best_with(settings: Iterable[Setting]) -> Setting:
            scores.update({setting: self._score(site, setting) for setting in settings})
            return min(scores, key=lambda one: (scores[one], len(one ^ start)))

        # One change first, as all of these are computed already; more only where none of them explains every bit.
        single = [origin | {name} for origin in origins for name in concerned]
        best = best_with([*origins, *(start ^ {name} for name in switched), *single])
        if scores[best] > 0:
            bases = list(dict.fromkeys([*bases, *origins]))
            best = best_with([*bases, *(base | {name} for name in concerned for base in bases)])
        if scores[best] > 0:
            bases.sort(key=lambda base: min(scores[base | {name}] for name in concerned) if concerned else 0.0)
            together = [pair for pair in combinations(concerned, 2) if may_go_together(*pair)]
            pairs = [(base, pair) for base in bases[:BASES_OF_PAIRS] for pair in together]
            pairs.sort(key=lambda one: sum(scores[one[0] | {name}] for name in one[1]))
            best = best_with(base | {*pair} for base, pair in pairs[:MOST_TRIED])
        decisions = {}
        for name in [name for name in defects if name in best]:
            found = self._tell(site, best, name)
            if found is not None and found.verdict != "undecided":
                decisions[name] = self._against_others(found, site, scores, best)
        kept = {name: one for name, one in decisions.items() if one.verdict != "undecided"}
        return (best if kept else start) - (frozenset(defects) - kept.keys()), kept

    def _against_others(
        self, found: BehaviourDecision, site: str, tried: Iterable[Setting], best: Setting
    ) -> BehaviourDecision:
        """A decision on a defect, undecided if something else comes nearly as near; with what does the same."""
        name = found.switch.name
        moved = _moved(self._replay.taps(site, best), self._replay.taps(site, best - {name}))
        as_near: list[Behaviour] = []
        for setting in tried:
            if name in setting:
                continue
            errors = self.errors(site, setting)
            if errors == self.errors(site, best) and len(setting) == len(best):
                as_near += [PORT_DEFECTS[other] for other in sorted(setting - best) if other in PORT_DEFECTS]
            elif _rms(errors.get(tap, 0.0) for tap in moved) < found.error * FACTOR:
                return replace(found, verdict="undecided", reason="something else explains the run nearly as well")
        return replace(found, as_near=tuple(dict.fromkeys(as_near)))

    def _best(self, site: str, start: Setting, pending: list[str]) -> Setting:
        """The setting nearest to the run there, from a start by flips of pending switches."""
        scores = {start: self._score(site, start)}

        def tried(settings: Iterable[Setting]) -> Setting:
            for setting in settings:
                if setting not in scores:
                    scores[setting] = self._score(site, setting)
                if scores[setting] == 0:
                    return setting
            return min(scores, key=lambda one: (scores[one], len(one ^ start)))

        if len(pending) <= EXHAUSTIVE:
            return tried(
                start ^ frozenset(flips) for count in range(len(pending) + 1) for flips in combinations(pending, count)
            )
        allowed = frozenset(pending)
        best = tried([start, *(start - allowed | (setting_of(release) & allowed) for release in RELEASES)])
        improved = True
        while improved and scores[best] > 0:
            improved = False
            for count in (1, 2):  # pairs only where no single flip helps
                better = tried(best ^ frozenset(flips) for flips in combinations(pending, count))
                if scores[better] < scores[best]:
                    best, improved = better, True
                    break
        if scores[best] > 0:
            moving = [name for name in pending if self._moves(site, best, name)]
            if 2 ** len(moving) <= MOST_TRIED:
                every = range(3, len(moving) + 1)
                best = tried(best ^ frozenset(flips) for count in every for flips in combinations(moving, count))
        return best

    def _moves(self, site: str, setting: Setting, name: str) -> bool:
        """True if a switch moves any bit of the native model there."""
        return bool(_moved(self._replay.taps(site, setting), self._replay.taps(site, setting ^ {name})))

    def _score(self, site: str, setting: Setting) -> float:
        return _rms(self.errors(site, setting).values())

    def _tell(self, site: str, setting: Setting, name: str) -> BehaviourDecision | None:
        """The decision of a site on a switch; None if it moves nothing there that the run has."""
        flipped = setting ^ {name}
        moved = _moved(self._replay.taps(site, setting), self._replay.taps(site, flipped))
        errors, others = self.errors(site, setting), self.errors(site, flipped)
        seen = [tap for tap in {**errors, **others} if tap in moved]
        if not seen:
            return None
        error = _rms(errors.get(tap, 0.0) for tap in seen)
        other = _rms(others.get(tap, 0.0) for tap in seen)
        verdict: Verdict = "certain" if error == 0 else "likely" if error * FACTOR <= other else "undecided"
        return BehaviourDecision(
            switch=SWITCHES[name],
            on=name in setting,
            verdict=verdict,
            reason="the run's other differences there are larger" if verdict == "undecided" else "",
            site=site,
            tap=seen[0],
            error=error,
            flipped_error=other,
        )

    def _unseen(self, switch: Behaviour, setting: Setting) -> str:
        """The reason that a switch that may matter was not seen: it moves no bit, or nothing that the run has."""
        for site in switch.sites:
            if self._moves(site, setting, switch.name):
                return "what it moves was not recorded"
        return _NO_BIT


def _error(ours: TapSketch, theirs: TapSketch) -> float:
    found = relative_l2(ours, theirs)
    if math.isnan(found.estimate):
        return MISSING
    # Equal numbers in other bits (a dtype, a sign of zero) are not equal, and must not count as such.
    return 0.0 if found.bit_equal else min(MISSING, max(found.estimate, 1e-12))


def _moved(one: Taps, other: Taps) -> set[str]:
    """Taps whose bits differ, or that only one side has."""
    return {tap for tap in {**one, **other} if tap not in one or tap not in other or not one[tap].same_bits(other[tap])}


def _rms(errors: Iterable[float]) -> float:
    squares = [error * error for error in errors]
    return math.sqrt(sum(squares) / len(squares)) if squares else 0.0
