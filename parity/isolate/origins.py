"""Places that no other wrong place explains, of those where a candidate is wrong though it was fed right inputs."""

from collections.abc import Iterable

from parity.taps.dataflow import Dataflow


def origins_among(wrong: Iterable[str], flow: Dataflow) -> tuple[str, ...]:
    """The wrong places, given in data-flow order, that no wrong place of the same block explains.

    A block's branches feed one another; blocks, stages and passes are each fed the reference's own inputs.
    """
    tainted: set[str] = set()
    origins = []
    for where in wrong:
        block = "/".join(where.split("/")[:5])  # denoise/000/cond/block/00
        inputs = flow.inputs_of(where) if "/block/" in where and where in flow else ()
        explained = f"{where}/sdpa" in tainted  # attention alone, of the branch that this is
        if not explained and not any(name in tainted and name.startswith(f"{block}/") for name in inputs):
            origins.append(where)
        tainted.add(where)
    return tuple(origins)
