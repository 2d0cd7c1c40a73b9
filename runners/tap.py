"""Taps: named tensors on the way. A model calls `tap`; whoever listens gets it; when nobody does, it costs nothing.

Names are the ones in docs/taps.md. A part of the model knows only the tail of a name; the scopes around it
supply the head: inside `scope("denoise/003/cond")`, `tap("x0/video", x)` is heard as `denoise/003/cond/x0/video`.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol, Self, cast

from torch import Tensor

Listener = Callable[[str, Tensor], None]


class RepeatingListener(Protocol):
    """A listener that can be told of a tensor that it heard already, under one more name."""

    repeats: bool  # False makes it one that cannot

    def repeat(self, earlier: str, again: str) -> None:
        """Take all that was heard under the name or prefix `earlier` as heard under `again`, too."""


class CapturingListener(Protocol):
    """A listener whose work on a tap can be captured by a CUDA graph and replayed with it."""

    captures: bool  # False makes it one that cannot

    def begin_capture(self) -> None:
        """From here on, taps are captured and not heard yet."""

    def end_capture(self) -> object:
        """The end of the capture; returns it, for `replayed`."""

    def replayed(self, captured: object, earlier: str, again: str) -> None:
        """Take what was captured under the prefix `earlier`, and now computed, as heard under `again`."""


_listener: Listener | None = None
_scope: tuple[str, ...] = ()


def tapping() -> bool:
    """True if anybody listens. Hot code asks this before it builds a name."""
    return _listener is not None


def listener() -> Listener | None:
    """The listener; a runner that computes in another process asks, since taps there are not heard here."""
    return _listener


def tap(name: str, tensor: Tensor) -> None:
    """Offer `tensor` to the listener under the current scope; the listener must neither keep nor change it unasked."""
    if _listener is not None:
        _listener("/".join((*_scope, name)), tensor)


def can_repeat() -> bool:
    """True if what was tapped can be tapped again by name alone: nobody listens, or who listens has kept it."""
    return _listener is None or bool(getattr(_listener, "repeats", False))


def tap_again(earlier: str, name: str) -> None:
    """Offer everything that was tapped under the prefix `earlier` again, under `name` in the current scope."""
    if _listener is not None:
        cast(RepeatingListener, _listener).repeat(earlier, "/".join((*_scope, name)))


def can_capture() -> bool:
    """True if taps may be captured by a CUDA graph: nobody listens, or who listens can be replayed."""
    return _listener is None or bool(getattr(_listener, "captures", False))


class CapturedTaps:
    """The taps of one capture, under the scope in which it was made."""

    def __init__(self) -> None:
        self._listener = cast("CapturingListener | None", _listener)
        self._scope, self._captured = current_scope(), object()

    def __enter__(self) -> Self:
        if self._listener is not None:
            self._listener.begin_capture()
        return self

    def __exit__(self, *_: object) -> None:
        if self._listener is not None:
            self._captured = self._listener.end_capture()

    def replayed(self) -> None:
        """Offer what a replay has computed, under the current scope."""
        if self._listener is not None:
            self._listener.replayed(self._captured, self._scope, current_scope())


def current_scope() -> str:
    """The prefix of every name tapped here; empty outside of all scopes."""
    return "/".join(_scope)


@contextmanager
def scope(name: str) -> Iterator[None]:
    """Prefix every tap inside with `name`; an empty one changes nothing."""
    global _scope
    outer = _scope
    _scope = (*outer, name) if name else outer
    try:
        yield
    finally:
        _scope = outer


@contextmanager
def listening(listener: Listener) -> Iterator[None]:
    """Send taps to `listener` while inside; an outer listener is silent meanwhile."""
    global _listener
    outer = _listener
    _listener = listener
    try:
        yield
    finally:
        _listener = outer
