"""What a verdict says of the two runs that it is of: runner, code, when and where. No tensor, and no run is opened."""

from dataclasses import dataclass

from parity.runs.difference import Difference


@dataclass(frozen=True, kw_only=True)
class Side:
    """The side of a verdict: one of the two runs. Empty fields are what numbers saved long ago do not hold."""

    runner: str
    tier: str
    dtype: str
    reference: str  # release that it follows
    run_sha256: str  # of its run.json
    described: tuple[str, ...] = ()  # phrases of its runner: the engine's version, how it ran, what is odd about it
    run_id: str = ""  # random, of that run alone
    code: str = ""  # hash of the code that ran it
    created_utc: str = ""
    device: str = ""  # cpu or cuda
    processor: str = ""  # name of the device


@dataclass(frozen=True, kw_only=True)
class Sides:
    """Both sides, as far as they are known: outputs in memory are of no run."""

    reference: Side | None = None
    candidate: Side | None = None
    environment: tuple[Difference, ...] = ()  # what differs between the two and can change bits
