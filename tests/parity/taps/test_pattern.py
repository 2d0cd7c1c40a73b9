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
