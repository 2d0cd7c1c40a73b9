"""The watching: what a refusal may take, and that the process is left as it was when a campaign ends."""

import signal
import sys
import threading
from pathlib import Path

import pytest
import torch

from tests.hostile import watch
from tests.hostile.campaign import Bound, Variant
from tests.hostile.damage import Damage
from tests.hostile.targets import call
from tests.hostile.test_campaign import watching


def test_what_is_put_in_for_the_campaign_goes_with_it() -> None:
    def state() -> tuple[object, ...]:
        return sys.dont_write_bytecode, signal.getsignal(signal.SIGUSR1), threading.active_count()

    before, fixture = state(), watching.__wrapped__()  # type: ignore[attr-defined]
    next(fixture)
    assert state() != before and signal.getsignal(signal.SIGUSR1) is watch.hung
    assert next(fixture, None) is None and state() == before


@pytest.mark.parametrize(
    ("code", "cpu_s", "peak_mb", "wrong"),
    [
        (2, 2.0, 500, []),
        (2, 2.1, 500, ["refused after 2.1 s, 2.0 s are allowed"]),
        (2, 0.1, 501, ["refused with 501 MB, 500 are allowed"]),
        (0, 9.0, 900, []),  # what is run is run
    ],
)
def test_a_refusal_takes_two_seconds_and_500_mb_whatever_the_verb(
    code: int, cpu_s: float, peak_mb: int, wrong: list[str]
) -> None:
    for verb in ("gate", "run", "amplify", "isolate", "identify", "suite"):
        variant = Variant(
            path="a",
            damage=Damage(what="b", must_not_pass=False),
            call=call(verb),
            code=code,
            traceback=False,
            seen=watch.Seen(allowed=(), cpu_s=cpu_s, peak_bytes=peak_mb << 20),
            said="",
            bound=Bound(),
        )
        assert variant.wrong == wrong


def test_a_refusal_after_the_model_has_run_takes_that_much_more() -> None:
    bound = Bound().beyond(watch.Seen(allowed=(), cpu_s=3.0, peak_bytes=7 << 20))
    assert bound == Bound(cpu_s=5.0, peak_bytes=507 << 20)
    assert bound.keeps(watch.Seen(allowed=(), cpu_s=5.0, peak_bytes=507 << 20))
    assert not bound.keeps(watch.Seen(allowed=(), cpu_s=5.1)) and not bound.keeps(
        watch.Seen(allowed=(), peak_bytes=508 << 20)
    )


def test_whether_a_model_was_called_is_seen(tmp_path: Path) -> None:
    module = torch.nn.Identity()
    with watch.watched(tmp_path) as idle:
        torch.ones(2).sum()
    with watch.watched(tmp_path) as busy:
        module(torch.ones(2))
    module(torch.ones(2))
    assert (idle.computed, busy.computed) == (False, True)
