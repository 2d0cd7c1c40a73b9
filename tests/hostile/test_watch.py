"""The watching leaves the process as it was, so that other tests see nothing of a campaign."""

import signal
import sys
import threading

from tests.hostile import watch
from tests.hostile.test_campaign import watching


def test_what_is_put_in_for_the_campaign_goes_with_it() -> None:
    def state() -> tuple[object, ...]:
        return sys.dont_write_bytecode, signal.getsignal(signal.SIGUSR1), threading.active_count()

    before, fixture = state(), watching.__wrapped__()  # type: ignore[attr-defined]
    next(fixture)
    assert state() != before and signal.getsignal(signal.SIGUSR1) is watch._hung
    assert next(fixture, None) is None and state() == before
