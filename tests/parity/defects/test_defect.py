from types import SimpleNamespace

import pytest

from parity.defects.defect import Apply, Defect, present, together, wrapped
from runners.errors import RunnerError


def _defect(apply: Apply) -> Defect:
    return Defect(id="d", component="rotary", description="wrong", first_taps=("init/*",), apply=apply)


def test_a_defect_changes_calls_while_it_is_present_and_no_longer() -> None:
    owner = SimpleNamespace(double=lambda x: 2 * x)
    with present(_defect(wrapped(owner, "double", lambda original, x: original(x) + 1))):
        assert owner.double(3) == 7
    assert owner.double(3) == 6


def test_calls_that_are_not_meant_stay_right() -> None:
    owner = SimpleNamespace(double=lambda x: 2 * x)
    with present(_defect(wrapped(owner, "double", lambda original, x: -1, when=lambda x: x == 5))):
        assert [owner.double(x) for x in (3, 5)] == [6, -1]


def test_a_defect_that_is_never_reached_is_an_error_and_is_still_removed() -> None:
    owner = SimpleNamespace(double=lambda x: 2 * x)
    never = wrapped(owner, "double", lambda original, x: -1, when=lambda x: False)
    with pytest.raises(RunnerError, match="never reached"), present(_defect(never)):
        assert owner.double(3) == 6
    with present(_defect(never), must_reach=False):
        owner.double(3)
    assert owner.double(3) == 6


def test_several_patches_are_one_defect() -> None:
    owner = SimpleNamespace(one=lambda: 1, two=lambda: 2)
    both = together(wrapped(owner, "one", lambda _: 10), wrapped(owner, "two", lambda _: 20))
    with present(_defect(both)):
        assert (owner.one(), owner.two()) == (10, 20)
    assert (owner.one(), owner.two()) == (1, 2)


def test_a_run_that_fails_shows_its_own_error_not_that_nothing_was_reached() -> None:
    owner = SimpleNamespace(double=lambda x: 2 * x)
    with pytest.raises(KeyError, match="mine"), present(_defect(wrapped(owner, "double", lambda original, x: -1))):
        raise KeyError("mine")


def test_places_of_an_isolation_default_to_the_first_taps() -> None:
    assert _defect(together()).places == ("init/*",)
