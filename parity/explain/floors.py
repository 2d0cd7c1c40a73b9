"""The distance that harmless noise alone may carry each tap: measured where that was done, else a stated rule.

**Calibrated** floors are those of the registry, for the case and the group of the tap (`parity.taps.group`): the
worst of all harmless variations. What exceeds the group's limit, or `HEADROOM` times its floor, departs.

**Measured** floors are the relative L2 between two runs of the reference that differ in nothing that matters (another
attention kernel, another thread count), or one unit in the last place put into its latent (`parity amplify`). They are
looked up by the tap's own name, then with its block as `*`, then with its step as `*`, then with both. They come before
calibrated ones: who gives them wants them used.

**The rule**, for taps that nobody has measured, with u the unit roundoff of the run's dtype (bf16: 2^-9):

    an initial latent                2 u
    a block tap after b + 1 blocks   2 u sqrt(b + 1): each block rounds anew, and independent errors add as squares
    a guided prediction              that of the last block, times sqrt(sum of squared weights of the passes)
    every tap of denoising           in addition (as squares) the floor of the latent its step starts from
    what is decoded                  the guided floor; the waveform four times that

Measured on an H100 (768x512, 121 frames, bf16): official compiled against eager 1.7e-2 after 48 blocks (rule: 2.7e-2);
guided predictions with another attention kernel 4.4e-2 to 7e-2 (rule: 0.18 to 0.3). The rule is wide on purpose: a
stand-in to point with, never a limit to judge by.
"""

import math
from collections.abc import Iterable, Mapping
from typing import Final

from parity.taps.dataflow import Dataflow
from parity.taps.group import drift_group
from parity.taps.name import place_of
from runners.errors import RunError

UNIT_ROUNDOFF: Final = {"bf16": 2.0**-9, "fp32": 2.0**-24}
BLOCK_FACTOR: Final = 2.0  # rounding of one block, in unit roundoffs
TEXT_LAYERS: Final = 49  # Gemma's hidden states, each one rounding deeper
WAVEFORM_FACTOR: Final = 4.0
HEADROOM: Final = 3.0  # a measured floor is one draw of noise; another draw may well be twice as large


class Floors:
    """The floor of every tap of one case."""

    def __init__(
        self,
        flow: Dataflow,
        dtype: str,
        measured: Mapping[str, float] | None = None,
        calibrated: Mapping[str, tuple[float, float]] | None = None,
    ) -> None:
        """Prepare floors.

        Args:
            flow: the case's taps.
            dtype: of the runs, "bf16" or "fp32".
            measured: relative L2 by tap, or by tap with `*` for its step, its block or both.
            calibrated: floor and limit of each group, as `parity.judge.registry.Registry.floors_of` gives them.
        Raises: RunError for another dtype, or a measured floor that is not a finite number from 0.
        """
        if dtype not in UNIT_ROUNDOFF:
            raise RunError(f"Floors are known for {' and '.join(UNIT_ROUNDOFF)}; got a run in {dtype!r}.")
        self.measured = dict(measured or {})
        bad = [name for name, value in self.measured.items() if not (math.isfinite(value) and value >= 0)]
        if bad:
            raise RunError(f"Floors must be finite and not negative; {bad[0]!r} is {self.measured[bad[0]]}.")
        self._calibrated = dict(calibrated or {})
        self._steps = flow.steps
        self._block = BLOCK_FACTOR * UNIT_ROUNDOFF[dtype]
        self._depth = flow.num_blocks
        self._guided = {
            stream: self._block * math.hypot(1.0, math.sqrt(flow.num_blocks) * flow.guidance_gain(stream))
            for stream in ("video", "audio")
        }

    def of(self, tap: str) -> float:
        """The floor of a tap, relative L2."""
        found = self._measured(tap)
        if found is not None:
            return found
        group = self._group(tap)
        return self._rule(tap) if group is None else group[0]

    def bound(self, tap: str) -> float:
        """The error that must be exceeded to be more than harmless."""
        found = self._measured(tap)
        if found is not None:
            return HEADROOM * found
        group = self._group(tap)
        return self._rule(tap) if group is None else min(group[1], HEADROOM * group[0])

    def by_rule(self, taps: Iterable[str]) -> int:
        """Number of these taps that nobody has measured."""
        return sum(self._measured(tap) is None and self._group(tap) is None for tap in taps)

    def by_registry(self, taps: Iterable[str]) -> int:
        """Number of these taps that have the registry's floor of their group."""
        return sum(self._measured(tap) is None and self._group(tap) is not None for tap in taps)

    def _group(self, tap: str) -> tuple[float, float] | None:
        return self._calibrated.get(drift_group(tap, self._steps)) if self._calibrated else None

    def _measured(self, tap: str) -> float | None:
        if not self.measured:
            return None
        for name in _names(tap):
            if name in self.measured:
                return self.measured[name]
        return None

    def _rule(self, tap: str) -> float:
        at = place_of(tap)
        guided = self._guided[at.stream or "video"]
        if at.part == "hidden":
            return self._block * math.sqrt(TEXT_LAYERS)
        if at.part in ("connector", "image"):
            return 2 * self._block * math.sqrt(TEXT_LAYERS)
        if at.part == "init":
            return guided if at.scope else self._block
        if at.part == "waveform":
            return WAVEFORM_FACTOR * guided
        if at.step is None:
            return guided
        begun = at.step or at.scope  # with what is no longer noise alone
        entry = guided if begun else self._block
        if at.part in ("guided", "latent"):
            return math.hypot(entry, guided) if begun else guided
        depth = self._depth if at.block is None else at.block + 1
        return math.hypot(entry, self._block * math.sqrt(depth))


def _names(tap: str) -> Iterable[str]:
    """A tap's own name, then with `*` for its block, its step and both, where it has them."""
    parts = tap.split("/")
    names = [parts]
    scope = 1 if place_of(tap).scope else 0  # parts before the name that a first stage would have
    if len(parts) > 4 + scope and parts[3 + scope] == "block":
        names.append([*parts[: 4 + scope], "*", *parts[5 + scope :]])
    if parts[scope] == "denoise":
        names += [[*parts[: scope + 1], "*", *name[scope + 2 :]] for name in list(names)]
    return dict.fromkeys("/".join(name) for name in names)
