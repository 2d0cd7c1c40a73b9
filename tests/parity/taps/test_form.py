"""The table of taps is true of runs: the official code's, which knows nothing of it, and the page says the same."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from parity.taps.dataflow import Dataflow
from parity.taps.form import FORMS, shape_of
from parity.taps.name import place_of
from runners.case import Case
from runners.weights import WeightsFolder, num_blocks

ROOT = Path(__file__).parents[3]
DTYPES = {"run": torch.bfloat16, "uint8": torch.uint8, "float32": torch.float32}
Made = Callable[..., Any]


def form_of(tap: str) -> Any:
    """The one row whose names match a tap: {a,b} is one of them, {step:03d} a number, {pass} a word."""

    def expression(names: str) -> str:
        parts = re.split(r"(\{[^}]*\})", names)
        return "".join(
            re.escape(part)
            if not part.startswith("{")
            else f"(?:{part[1:-1].replace(',', '|')})"
            if "," in part
            else r"\w+"
            for part in parts
        )

    found = [form for form in FORMS if re.fullmatch(expression(form.names), tap)]
    assert len(found) == 1, tap
    return found[0]


@pytest.mark.parametrize(
    "images",
    [[], [{"path": "coffee.jpg"}, {"path": "coffee.jpg", "frame_idx": 8, "strength": 0.5}]],
    ids=["text", "with a keyframe"],
)
def test_every_tap_of_an_official_run_has_the_shape_and_dtype_of_the_table(
    official_run: Made, micro_case: Callable[..., Case], micro_weights: WeightsFolder, images: list[dict[str, Any]]
) -> None:
    case = micro_case({"request.images": images} if images else None)
    taps = official_run(case).taps
    assert set(taps) == set(Dataflow(case, num_blocks(micro_weights)).taps)
    for tap, tensor in taps.items():
        form, wanted = form_of(tap), shape_of(place_of(tap), case, micro_weights.config)
        assert tensor.dtype == DTYPES[form.dtype], tap
        assert len(form.axes.split()) == len(wanted) == tensor.ndim, tap
        assert all(size in (None, got) for size, got in zip(wanted, tensor.shape, strict=True)), (tap, tensor.shape)


def test_shapes_follow_from_the_request(micro_case: Callable[..., Case], micro_weights: WeightsFolder) -> None:
    """By hand: 25 frames at 25 fps of 128 x 64 are 4 x 4 x 2 cells and 25 audio frames."""
    sizes = {"num_frames": 25, "frame_rate": 25.0, "width": 64, "height": 128}
    case = micro_case({f"request.{name}": value for name, value in sizes.items()})

    def shape(tap: str) -> tuple[int | None, ...]:
        return shape_of(place_of(tap), case, micro_weights.config)

    assert shape("init/video") == (1, 32, 128)
    assert shape("denoise/001/guided/audio") == (1, 25, 128)
    assert shape("decode/frames") == (25, 128, 64, 3)
    assert shape("decode/mel") == (1, 2, 97, 64)
    assert shape("decode/waveform") == (2, 46560)
    assert shape("text/pos/hidden") == (1, None, None, None)


def test_the_page_has_every_row() -> None:
    page = (ROOT / "docs/taps.md").read_text(encoding="utf-8")
    for form in FORMS:
        assert f"| `{form.names}` | {form.axes} | {form.dtype} | {form.order} | {form.what} |" in page
