"""Limits of memory that no verb could begin under: exit code 2 and one sentence, at once."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]


def parity(limit: str, *arguments: object) -> "subprocess.CompletedProcess[str]":
    command = f"ulimit {limit}; exec {sys.executable} -m parity {' '.join(map(str, arguments))}"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        ["bash", "-c", command], capture_output=True, text=True, env=environment, check=False, timeout=60
    )


@pytest.mark.parametrize("limit", ["-v 400000", "-v 500000", "-v 800000", "-v 1000000", "-d 200000"])
def test_too_little_memory_to_begin_is_exit_2_and_one_sentence(limit: str, tmp_path: Path) -> None:
    done = parity(limit, "gate", tmp_path)
    assert done.returncode == 2 and done.stdout == "" and done.stderr.count("\n") == 1, done
    assert f"may take {int(limit[3:]) // 1024} MiB of" in done.stderr and "`ulimit -" in done.stderr


def test_enough_memory_is_enough_and_help_needs_none(tmp_path: Path) -> None:
    done = parity("-v 2100000", "gate", tmp_path)
    assert done.returncode == 2 and "is not a run" in done.stderr
    assert parity("-v 500000", "--help").returncode == 0
