"""`parity calibrate`: placeholder until the populations exist."""

from parity.cli.verb import verb


@verb
def calibrate() -> int:
    """Not there yet."""
    return 2
