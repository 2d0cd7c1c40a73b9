"""Damage by the hundred: each variant is a copy of the honest checkout with one document damaged and one verb called.

A variant fails for a traceback, a hang, an exit code other than 0, 1 and 2, exit code 0 where the damage matters,
anything written, deleted or asked of the network outside of where the verb may write, and a refusal that took too long
or too much. What only a model's own numbers show is refused after it has run: that may take what the honest call takes,
and two seconds more.
"""

import gc
import itertools
import os
import shutil
import tempfile
import warnings
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from parity.cli.app import app
from tests.hostile import watch
from tests.hostile.damage import FILE_KINDS, Damage, other_kind
from tests.hostile.honest import linked, replaced
from tests.hostile.targets import TARGETS, Call, Target

REFUSAL_S = 2.0  # of CPU time, in which whatever is refused is refused
REFUSAL_BYTES = 500 << 20
TEMPORARY = "temporary"  # the folder for what goes again


@dataclass(frozen=True, kw_only=True)
class Bound:
    """The most that a refusal may take."""

    cpu_s: float = REFUSAL_S
    peak_bytes: int = REFUSAL_BYTES

    def keeps(self, seen: watch.Seen) -> bool:
        """True if no more was taken."""
        return seen.cpu_s <= self.cpu_s and seen.peak_bytes <= self.peak_bytes

    def beyond(self, honest: watch.Seen) -> "Bound":
        """So much more than the honest call took."""
        return Bound(cpu_s=self.cpu_s + honest.cpu_s, peak_bytes=self.peak_bytes + honest.peak_bytes)


@dataclass(frozen=True, kw_only=True)
class Variant:
    """One damaged document, and what a verb made of it."""

    path: str
    damage: Damage
    call: Call
    code: int | None  # None if it never ended
    traceback: bool
    seen: watch.Seen
    said: str
    bound: "Bound"  # of a refusal

    @property
    def refused(self) -> bool:
        """True if the verb came to no judgement."""
        return self.code == 2

    @property
    def wrong(self) -> list[str]:
        """Everything that should not have been."""
        found = []
        if self.traceback:
            found.append("traceback")
        if self.code is None:
            found.append("hang")
        elif self.code not in (0, 1, 2):
            found.append(f"exit {self.code}")
        if self.code == 0 and self.damage.must_not_pass and self.call.judges:
            found.append("passed")
        if self.seen.outside:
            found.append(f"outside: {self.seen.outside[0]}")
        if self.refused and self.seen.cpu_s > self.bound.cpu_s:
            found.append(f"refused after {self.seen.cpu_s:.1f} s, {self.bound.cpu_s:.1f} s are allowed")
        if self.refused and self.seen.peak_bytes > self.bound.peak_bytes:
            found.append(f"refused with {self.seen.peak_bytes >> 20} MB, {self.bound.peak_bytes >> 20} are allowed")
        return found

    def line(self) -> str:
        """For whoever mends it."""
        words = " ".join(argument.replace("{}/", "") for argument in self.call.arguments)
        return (
            f"{'; '.join(self.wrong)} | {self.path}: {self.damage.what[:120]} | parity {words} | {self.said[-300:]!r}"
        )


@dataclass(kw_only=True)
class Campaign:
    """All variants tried so far."""

    variants: list[Variant] = field(default_factory=list)

    @property
    def wrong(self) -> list[Variant]:
        """Variants that failed."""
        return [variant for variant in self.variants if variant.wrong]

    def table(self) -> str:
        """One line a verb, and one of all."""
        verbs = sorted({variant.call.arguments[0] for variant in self.variants})
        rows = [(verb, [one for one in self.variants if one.call.arguments[0] == verb]) for verb in verbs]
        lines = [
            "| verb | tried | 0 | 1 | 2 | tracebacks | slowest | slowest refusal | largest | outside writes "
            "| damage passed |",
            "| " + " | ".join(["---"] * 11) + " |",
        ]
        for verb, tried in (*rows, ("all", self.variants)):
            codes = Counter(one.code for one in tried)
            slowest, largest = max(one.seen.cpu_s for one in tried), max(one.seen.peak_bytes for one in tried)
            passed = sum("passed" in one.wrong for one in tried)
            numbers = (len(tried), codes[0], codes[1], codes[2], sum(one.traceback for one in tried))
            refusal = max((one.seen.cpu_s for one in tried if one.refused), default=0.0)
            ends = (
                f"{slowest:.1f} s",
                f"{refusal:.1f} s",
                f"{largest >> 20} MB",
                sum(bool(one.seen.outside) for one in tried),
                passed,
            )
            lines.append("| " + " | ".join(map(str, (verb, *numbers, *ends))) + " |")
        return "\n".join(lines)


def run(base: Path, work: Path, count: int, from_seed: int | None) -> Campaign:
    """Try so many variants; the same ones again for the same seed, and without one always the same.

    Args:
        base: the honest checkout.
        work: an empty folder beside which nothing may change.
        count: how many.
        from_seed: of the draws; None takes them from the name of the test, as hypothesis does.
    """
    campaign, numbers, took = Campaign(), itertools.count(), dict[Call, watch.Seen]()
    for target, share in shares(count):
        campaign.variants += _variants(target, share, from_seed, base, work, numbers, took)
    return campaign


def _variants(
    target: Target,
    share: int,
    from_seed: int | None,
    base: Path,
    work: Path,
    numbers: Iterator[int],
    took: dict[Call, watch.Seen],
) -> list[Variant]:
    """So many variants of one document, its verbs by turns; `took` keeps what honest calls take, once it is asked."""
    calls, found = itertools.cycle(target.calls), list[Variant]()

    def honest(which: Call) -> watch.Seen:
        if which not in took:
            folder = work / f"honest{len(took)}"
            linked(base, folder)
            took[which] = called(folder, "", Damage(what="nothing", must_not_pass=False), which).seen
            shutil.rmtree(folder)
        return took[which]

    @settings(
        max_examples=share,
        derandomize=from_seed is None,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(st.data())
    def try_one(data: Any) -> None:
        folder = work / f"variant{next(numbers)}"
        linked(base, folder)
        try:
            path = _chosen(folder, target, data)
            damage = _damaged(folder, path, target, data)
            found.append(called(folder, str(path.relative_to(folder)), damage, next(calls)))
        finally:
            shutil.rmtree(folder)
        last = found[-1]
        if last.refused and last.seen.computed and not last.bound.keeps(last.seen):
            found[-1] = replace(last, bound=last.bound.beyond(honest(last.call)))

    (try_one if from_seed is None else seed(from_seed)(try_one))()
    return found


def shares(count: int) -> list[tuple[Target, int]]:
    """So many variants or a few more, divided among the targets by their weights."""
    whole = sum(target.weight for target in TARGETS)
    return [(target, -(-count * target.weight // whole)) for target in TARGETS]


def _chosen(folder: Path, target: Target, data: Any) -> Path:
    found = sorted(folder.glob(target.path))
    return data.draw(st.sampled_from(found)) if len(found) > 1 else found[0]


def _damaged(folder: Path, path: Path, target: Target, data: Any) -> Damage:
    if data.draw(st.sampled_from((False,) * 7 + (True,))):
        kind = data.draw(st.sampled_from(FILE_KINDS))
        other_kind(path, kind)
        return Damage(what=kind, must_not_pass=target.kinds_matter)
    changed, damage = target.broken(data.draw, path.read_bytes())
    replaced(path, changed)
    if target.seal is not None and data.draw(st.sampled_from((True, True, True, False))):
        target.seal(folder, path)
        return damage
    if target.seal is not None and changed != (folder / path).read_bytes():
        return Damage(what=damage.what, must_not_pass=True)
    return damage


def called(folder: Path, path: str, damage: Damage, which: Call) -> Variant:
    """Call a verb on a damaged checkout, in this process, and see what it does."""
    for name in (*which.writes, TEMPORARY):
        (folder / name).mkdir(parents=True, exist_ok=True)
    tempfile.tempdir = str(folder / TEMPORARY)
    os.environ |= {"PARITY_ROOT": str(folder / "root"), "PARITY_STORE": str(folder / "store")}
    gc.collect(0)
    code: int | None = None
    said, traceback = "", False
    with watch.watched(*(folder / name for name in (*which.writes, TEMPORARY))) as seen:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # as for a user, whom a warning does not stop
                result = CliRunner().invoke(app, which.line(folder))
            code, said = result.exit_code, result.output
            traceback = result.exception is not None and not isinstance(result.exception, SystemExit)
        except watch.HungError:
            said = "never ended"
    traceback = traceback or "Traceback (most recent call last)" in said
    return Variant(
        path=path, damage=damage, call=which, code=code, traceback=traceback, seen=seen, said=said, bound=Bound()
    )


def honest_calls() -> Iterator[Call]:
    """Every call once."""
    yield from dict.fromkeys(which for target in TARGETS for which in target.calls)
