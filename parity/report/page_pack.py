"""Numbers made small for a page: base64 of whole arrays in place of JSON numbers, times by ten in size.

Errors of taps span many decades, so each is 16 bits of its logarithm. The codes below `FIRST` say what is no number:

    0  the case leaves no such tap       3  infinite
    1  not recorded, or missing          4  equal in every bit
    2  could not be computed (NaN)       5  zero, though bits differ (-0.0 beside 0.0)

From `FIRST` on, code c is 10^(LOW + (c - FIRST) * STEP): steps of 0.06 %.
"""

import base64
import math
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

ABSENT: Final = 0
MISSING: Final = 1
NOT_A_NUMBER: Final = 2
INFINITE: Final = 3
EQUAL: Final = 4
ZERO: Final = 5
FIRST: Final = 6
LOW: Final = -10.0  # decades
STEP: Final = 16.0 / (0xFFFF - FIRST)  # decades; the largest code is 10^6


def log_code(value: float) -> int:
    """The code of a relative error; what lies outside 1e-10 .. 1e6 takes the nearest code."""
    if math.isnan(value):
        return NOT_A_NUMBER
    if math.isinf(value):
        return INFINITE
    if value == 0:
        return ZERO
    return min(max(FIRST + round((math.log10(value) - LOW) / STEP), FIRST), 0xFFFF)


def packed(array: NDArray[Any]) -> str:
    """The array's bytes, little-endian and in row-major order, as base64."""
    little = array.astype(array.dtype.newbyteorder("<"), copy=False)
    return base64.b64encode(np.ascontiguousarray(little).tobytes()).decode("ascii")


def data_uri(media_type: str, data: bytes) -> str:
    """A file inside the page."""
    return f"data:{media_type};base64,{base64.b64encode(data).decode('ascii')}"
