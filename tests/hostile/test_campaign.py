"""Damaged inputs by the hundred, seeds fixed; `make hostile` tries thousands and prints the table.

PARITY_HOSTILE_VARIANTS says how many, PARITY_HOSTILE_SEED draws others.
"""

import os
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.hostile import campaign, watch
from tests.hostile.damage import Damage
from tests.hostile.honest import linked
from tests.hostile.targets import TARGETS

pytestmark = [pytest.mark.slow, pytest.mark.sweep]

VARIANTS = int(os.environ.get("PARITY_HOSTILE_VARIANTS", "400"))
SEED = os.environ.get("PARITY_HOSTILE_SEED")


@pytest.fixture(scope="module", autouse=True)
def watching() -> Iterator[None]:
    before = sys.dont_write_bytecode
    sys.dont_write_bytecode = True  # beside an engine's file
    with watch.installed():
        yield
    sys.dont_write_bytecode = before


def test_every_call_comes_to_its_honest_end_and_writes_where_it_may(world: Path, tmp_path: Path) -> None:
    """Or a refusal would say nothing about the damage."""
    for number, which in enumerate(campaign.honest_calls()):
        folder = tmp_path / str(number)
        linked(world, folder)
        found = campaign.called(folder, "", Damage(what="nothing", must_not_pass=False), which)
        assert found.code == which.honest and not found.traceback and not found.seen.outside, found.line() + found.said
        shutil.rmtree(folder)


def test_damage_is_refused_or_judged_and_nothing_else_happens(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    work = tmp_path / "deep" / "er"
    work.mkdir(parents=True)
    began_s, began_cpu_s = time.monotonic(), time.process_time()
    tried = campaign.run(world, work, VARIANTS, None if SEED is None else int(SEED))
    with capsys.disabled():
        took_s, took_cpu_s = time.monotonic() - began_s, time.process_time() - began_cpu_s
        print(f"\n{tried.table()}\n{took_s:.0f} s, {took_cpu_s:.0f} s of CPU time")
    assert len(tried.variants) >= VARIANTS
    assert [path.name for path in tmp_path.iterdir()] == ["deep"] and not list(work.iterdir())
    assert not tried.wrong, "\n".join(variant.line() for variant in tried.wrong)


def test_every_document_is_there(world: Path) -> None:
    assert [target.path for target in TARGETS if not list(world.glob(target.path))] == []
