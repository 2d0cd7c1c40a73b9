"""The choice of products in fp8, as it is kept."""

import tomllib

from runners.ltx23.fast.fp8_choice import FILE, NOTHING_IN_FP8, Fp8Choice, choice_of_tier
from runners.ltx23.fast.products import LARGE
from runners.protocol import TIERS

RELEASED_BLOCKS = 48
MOST_ERROR = {"fp8": 1.0, "fp8x2": 2.0}  # in multiples of the official code's own


def test_a_block_has_the_products_that_name_it() -> None:
    choice = Fp8Choice({"video/ff/widen": frozenset({0, 2}), "video/text/q": frozenset({2})})
    assert choice.of_block(0) == {"video/ff/widen"}
    assert choice.of_block(1) == frozenset()
    assert choice.of_block(2) == {"video/ff/widen", "video/text/q"}


def test_tiers_without_fp8_choose_nothing() -> None:
    assert choice_of_tier("fast") == NOTHING_IN_FP8


def test_what_is_kept_names_products_and_blocks_that_there_are_and_says_why() -> None:
    kept = tomllib.loads(FILE.read_text())["tiers"]
    assert kept.keys() == MOST_ERROR.keys() <= set(TIERS)
    for tier, choice in kept.items():
        assert choice["products"].keys() <= set(LARGE)
        assert all(0 <= block < RELEASED_BLOCKS for blocks in choice["products"].values() for block in blocks)
        multiple = float(choice["reason"].removeprefix("error of the guided x0 ").split()[0])
        assert 0 < multiple <= MOST_ERROR[tier]
