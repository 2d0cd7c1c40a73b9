"""The drift map as data for the page: the error and the floor of every tap of a case, and where a run first departs.

Axes: P guidance pass, S stream, K part of a block, T step, B block, E the three taps of a step after its blocks.
"""

import math
from collections.abc import Callable, Iterable
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from parity.explain.divergence import FirstDivergence
from parity.explain.explanation import Explanation
from parity.report.page_pack import ABSENT, EQUAL, FIRST, LOW, MISSING, STEP, log_code, packed
from parity.taps.dataflow import Dataflow
from parity.taps.module_path import module_path
from parity.taps.name import BLOCK_PARTS, CROSS_WORDS, PART_WORDS, PASS_WORDS, STREAMS, place_of

END_PARTS: Final = ("x0", "guided", "latent")
Coder = Callable[[str], int]


def drift_data(diagnosis: Explanation) -> dict[str, Any]:
    """Everything that the page's map, its tooltips and its details show."""
    taps, by_bits = diagnosis.traces.taps, diagnosis.traces.by_bits
    flow, floors = diagnosis.flow, diagnosis.floors

    def error(tap: str) -> int:
        if tap not in flow:
            return ABSENT
        if tap in by_bits:  # a golden that kept no sketch of it
            return EQUAL if by_bits[tap] else log_code(math.nan)
        if tap not in taps:
            return MISSING
        return EQUAL if taps[tap].bit_equal and not taps[tap].findings else log_code(taps[tap].estimate)

    def floor(tap: str) -> int:
        return log_code(floors.of(tap)) if tap in flow else ABSENT

    found = diagnosis.divergence
    outside = [tap for tap in flow.taps if place_of(tap).step is None]
    return {
        "passes": [{"id": name, "words": PASS_WORDS[name]} for name in flow.passes],
        "streams": list(STREAMS),
        "parts": list(BLOCK_PARTS),
        "part_words": [[PART_WORDS.get(part, CROSS_WORDS[stream]) for part in BLOCK_PARTS] for stream in STREAMS],
        "end_words": [PART_WORDS[part] for part in END_PARTS],
        "steps": len(flow.step_heads),
        "blocks": flow.num_blocks,
        "scale": {"first": FIRST, "low": LOW, "step": STEP},
        "errors": packed(_blocks(flow, error)),
        "floors": packed(_blocks(flow, floor)),
        "end_errors": packed(_ends(flow, error)),
        "end_floors": packed(_ends(flow, floor)),
        "outside": [{"tap": tap, "words": place_of(tap).words(), "codes": [error(tap), floor(tap)]} for tap in outside],
        "roots": [_root(root, flow) for root in found.roots],
        "modules": [[_modules(stream, part) for part in (*BLOCK_PARTS, *END_PARTS)] for stream in STREAMS],
        "measured": not diagnosis.floors_by_rule,
    }


def _blocks(flow: Dataflow, coder: Coder) -> NDArray[np.uint16]:
    """(P, S, K, T, B) codes."""
    names = (
        f"{head}/{name}/block/{block:02d}/{stream}/{part}"
        for name in flow.passes
        for stream in STREAMS
        for part in BLOCK_PARTS
        for head in flow.step_heads
        for block in range(flow.num_blocks)
    )
    return _coded(names, coder)


def _ends(flow: Dataflow, coder: Coder) -> NDArray[np.uint16]:
    """(P, S, T, E) codes; guided predictions and latents, which a step has once, stand in the first pass alone."""
    codes = [
        coder(f"{head}/{name}/x0/{stream}")
        if part == "x0"
        else coder(f"{head}/{part}/{stream}")
        if name == flow.passes[0]
        else ABSENT
        for name in flow.passes
        for stream in STREAMS
        for head in flow.step_heads
        for part in END_PARTS
    ]
    return np.array(codes, np.uint16)


def _coded(taps: Iterable[str], coder: Coder) -> NDArray[np.uint16]:
    return np.fromiter(map(coder, taps), np.uint16)


def _root(root: FirstDivergence, flow: Dataflow) -> dict[str, Any]:
    """The place of a root on the map: indices, or None where it lies outside the map."""
    place = place_of(root.tap)
    parts = (*BLOCK_PARTS, *END_PARTS)
    on_map = place.step is not None and place.part in parts
    return {
        "words": place.words(),
        "tap": root.tap,
        "step": place.step + (flow.steps if place.scope else 0) if on_map and place.step is not None else None,
        "pass": flow.passes.index(place.guidance_pass) if place.guidance_pass else None,
        "stream": STREAMS.index(place.stream) if place.stream else None,
        "part": parts.index(place.part) if on_map else None,
        "block": place.block,
    }


def _modules(stream: str, part: str) -> dict[str, str]:
    """The place where a kind of tap is computed; `{block}` stands for the block's number."""
    if part in BLOCK_PARTS:
        tap = f"denoise/000/cond/block/00/{stream}/{part}"
    elif part == "x0":
        tap = f"denoise/000/cond/x0/{stream}"
    else:
        tap = f"denoise/000/{part}/{stream}"
    found = module_path(tap)
    weights = found.weights.replace("transformer_blocks.0", "transformer_blocks.{block}")
    return {"native": found.native, "official": found.official, "weights": weights}
