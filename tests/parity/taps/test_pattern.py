import time

import pytest

from parity.taps.pattern import chosen, includes, require_choice
from runners.errors import CaseError

TAPS = ("connector/pos/video", "denoise/000/cond/block/01/audio/ff", "decode/mel")


def test_a_pattern_of_several_parts_chooses_what_any_of_them_does() -> None:
    assert [chosen(tap, "*/video decode/*") for tap in TAPS] == [True, False, True]
    assert all(chosen(tap, None) for tap in TAPS)


@pytest.mark.parametrize(
    ("wider", "narrower", "surely"),
    [
        (None, "anything/*", True),
        ("*", "anything/*", True),
        ("text/* denoise/000/*", "denoise/000/*/block/08/* text/*", True),
        ("text/* denoise/000/*", "denoise/000/*/block/08/* init/*", False),
        ("denoise/*/out", "denoise/*/block/08/*", False),
        ("denoise/000/*", "denoise/*", False),
        ("text/?", "text/*", False),
        ("[!a]ext/* init/*", "text/*", False),
    ],
)
def test_a_pattern_includes_another_only_if_that_is_sure(wider: str | None, narrower: str, surely: bool) -> None:
    assert includes(wider, narrower) is surely


@pytest.mark.parametrize("pattern", ["[", "", "block/01/*", "Decode/mel"])
def test_a_pattern_that_chooses_nothing_is_refused(pattern: str) -> None:
    with pytest.raises(CaseError, match="matches no tap of this case"):
        require_choice(TAPS, pattern)
    require_choice(TAPS, "denoise/*/ff")


@pytest.mark.parametrize("pattern", ["[" * 50_000, "*" * 50_000, "a " * 50_000])
def test_a_pattern_longer_than_any_is_refused_at_once(pattern: str) -> None:
    before_s = time.process_time()
    with pytest.raises(CaseError, match=r"has \d+ characters; at most 4096 are read"):
        chosen(TAPS[0], pattern)
    for one in ("[", "*a", "?"):  # as long as may be
        assert chosen("x" * 256, (one * 4096)[:4096]) is False
    assert time.process_time() - before_s < 1
