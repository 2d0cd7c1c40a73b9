"""One default of CPU threads for every verb."""

import inspect
import os
from collections.abc import Iterator

import pytest
import torch

from parity.cli.amplify import amplify
from parity.cli.app import app
from parity.cli.calibrate import calibrate
from parity.cli.isolate import isolate
from parity.cli.mutate import mutate
from parity.cli.run import run
from parity.cli.suite import suite
from parity.cli.threads import DEFAULT_THREADS, MOST_THREADS, compute_on


@pytest.fixture(autouse=True)
def restored_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def test_a_cpu_computes_on_one_thread_unless_told_and_a_gpu_is_left_alone() -> None:
    torch.set_num_threads(3)
    assert compute_on(None, torch.device("cuda")) is None and torch.get_num_threads() == 3
    assert compute_on(None, torch.device("cpu")) == torch.get_num_threads() == DEFAULT_THREADS == 1
    assert compute_on(2, torch.device("cpu")) == torch.get_num_threads() == 2
    assert compute_on(2, torch.device("cuda")) == torch.get_num_threads() == 2


@pytest.mark.parametrize("verb", ["amplify", "calibrate", "identify", "isolate", "mutate", "run", "suite"])
@pytest.mark.parametrize("count", [-1, 0, MOST_THREADS + 1, 4096, 99999999999])
def test_more_threads_than_cores_or_none_are_a_typing_error(verb: str, count: int) -> None:
    assert (os.cpu_count() or 1) == MOST_THREADS
    with pytest.raises(Exception, match=f"^{count} is not 1 to {MOST_THREADS}, as many as there are cores at most.$"):
        app([verb, "--threads", str(count)], standalone_mode=False)


@pytest.mark.parametrize("verb", [amplify, calibrate, isolate, mutate, run, suite])
def test_every_verb_that_computes_leaves_the_number_to_that_default(verb: object) -> None:
    assert callable(verb)
    assert inspect.signature(verb).parameters["threads"].default is None
