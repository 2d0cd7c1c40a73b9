"""Taps: heard under their scopes, by the innermost listener alone, and not at all when nobody listens."""

import pytest
import torch
from torch import Tensor

from runners.tap import current_scope, listening, scope, tap, tapping


def test_a_tap_is_heard_under_its_scopes_and_only_while_listening() -> None:
    heard: list[tuple[str, Tensor]] = []
    x = torch.ones(2)
    tap("lost", x)
    assert not tapping()
    with listening(lambda name, tensor: heard.append((name, tensor))):
        assert tapping()
        with scope("denoise/003"), scope("cond"):
            tap("x0/video", x)
        tap("decode/frames", x)
    tap("lost", x)
    assert [name for name, _ in heard] == ["denoise/003/cond/x0/video", "decode/frames"]
    assert heard[0][1] is x


def test_the_current_scope_is_what_stands_before_a_name_whether_anybody_listens_or_not() -> None:
    assert current_scope() == ""
    with scope("denoise/003"), scope("cond"):
        assert current_scope() == "denoise/003/cond"
    assert current_scope() == ""


def test_scope_and_listener_are_restored_after_an_error() -> None:
    heard: list[str] = []
    with listening(lambda name, _: heard.append(name)):
        with pytest.raises(ZeroDivisionError), scope("inner"):
            raise ZeroDivisionError
        tap("after", torch.ones(1))
    with pytest.raises(ZeroDivisionError), listening(lambda name, _: heard.append(name)):
        raise ZeroDivisionError
    assert heard == ["after"]
    assert not tapping()


def test_an_outer_listener_is_silent_while_an_inner_one_listens() -> None:
    outer: list[str] = []
    inner: list[str] = []
    with listening(lambda name, _: outer.append(name)):
        with listening(lambda name, _: inner.append(name)):
            tap("a", torch.ones(1))
        tap("b", torch.ones(1))
    assert (outer, inner) == (["b"], ["a"])
