"""One default of CPU threads for every verb."""

import inspect
from collections.abc import Iterator

import pytest
import torch

from parity.cli.amplify import amplify
from parity.cli.calibrate import calibrate
from parity.cli.isolate import isolate
from parity.cli.mutate import mutate
from parity.cli.run import run
from parity.cli.suite import suite
from parity.cli.threads import DEFAULT_THREADS, compute_on


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
    assert compute_on(0, torch.device("cuda")) == torch.get_num_threads() == 1


@pytest.mark.parametrize("verb", [amplify, calibrate, isolate, mutate, run, suite])
def test_every_verb_that_computes_leaves_the_number_to_that_default(verb: object) -> None:
    assert callable(verb)
    assert inspect.signature(verb).parameters["threads"].default is None
