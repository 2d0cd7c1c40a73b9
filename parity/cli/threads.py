"""On how many CPU threads verbs compute: one, unless another number is asked for.

Sums are split by thread, so another number gives other bits of the official code, too. Limits hold for any, since
one thread and two are both in the harmless population they come from; equality of bits wants the same number on both
sides, and so one default everywhere. It is one because then a second program on the machine costs no more than its
share: two threads wait for each other at every sum, 60 s against 13 s for a tiny run on a busy box of two cores. On one
thread the fp32 sums of later releases' vocoder come in a fixed order, too.
"""

import os
from typing import TYPE_CHECKING, Annotated, Final

import typer

if TYPE_CHECKING:
    import torch

DEFAULT_THREADS: Final = 1
MOST_THREADS: Final = os.cpu_count() or 1  # more wait for each other without end


def within_cores(count: int | None) -> int | None:
    """The number of threads that an option was given, if there are cores for them. Raises: BadParameter."""
    if count is not None and not 1 <= count <= MOST_THREADS:
        raise typer.BadParameter(f"{count} is not 1 to {MOST_THREADS}, as many as there are cores at most.")
    return count


Threads = Annotated[  # the option, on every verb that computes
    int | None,
    typer.Option(
        callback=within_cores,
        help=f"CPU threads; part of the environment. Default: {DEFAULT_THREADS}, on a GPU what torch takes.",
    ),
]


def compute_on(threads: int | None, device: "torch.device") -> int | None:
    """Compute on so many CPU threads from now on. Returns: the number, None where it is left to torch."""
    import torch

    if threads is None and device.type != "cpu":
        return None
    count = threads or DEFAULT_THREADS
    torch.set_num_threads(count)
    return count
