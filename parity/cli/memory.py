"""The memory that a verb needs to begin at all, asked of the process's limits before anything heavy is imported.

Where libraries that compute are loaded without enough of it, one ends the process with exit code 1, another aborts, and
a third waits for threads that never came: none of them leaves anybody to say so.
"""

import resource
from typing import Final

from runners.errors import OutOfMemoryError

MIB: Final = 1 << 20
# Measured on two cores: a gate of tiny runs takes 1.1 GB of addresses and 0.4 GB of data, and did not end below 1.0.
# More cores take more, for the stacks of threads.
NEEDED: Final = (
    ("address space", "ulimit -v", resource.RLIMIT_AS, 2048 * MIB),
    ("data", "ulimit -d", resource.RLIMIT_DATA, 1024 * MIB),
)


def require_memory() -> None:
    """Refuse to begin under a limit that torch cannot be loaded in. Raises: OutOfMemoryError."""
    for what, command, limit, needed in NEEDED:
        allowed, _ = resource.getrlimit(limit)
        if allowed != resource.RLIM_INFINITY and allowed < needed:
            raise OutOfMemoryError(
                f"This process may take {allowed // MIB} MiB of {what}; parity wants {needed // MIB}. Raise the limit "
                f"(`{command}`)."
            )
