"""Tests against checkouts of official releases and against engines are left out by name where there are none."""

import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

COMMITS = {"1.1.2": "41d9243", "1.2.0": "400fd31"}
ENGINES = {
    "sglang_python": (("PARITY_SGLANG_PYTHON",), "an interpreter with SGLang"),
    "comfyui": (("PARITY_COMFYUI_PYTHON", "PARITY_COMFYUI_ROOT"), "an interpreter for ComfyUI, and its checkout"),
}  # fixture -> variables, what they name
LEFT_OUT = pytest.StashKey[list[str]]()


def missing_variables(release: str) -> list[str]:
    """Environment variables without which nothing of a release can be run."""
    names = [f"PARITY_OFFICIAL_{release.replace('.', '_')}"]
    if release == "1.2.0":  # it needs other transformers than this project
        names.append("PARITY_PYTHON_1_2_0")
    return [name for name in names if not os.environ.get(name)]


@dataclass(frozen=True)
class Checkout:
    """A release on this machine."""

    root: Path
    python: Path


@pytest.fixture
def released_checkout(release: str) -> Checkout:
    """The checkout of a release, and what runs it."""
    name = release.replace(".", "_")
    python = os.environ.get(f"PARITY_PYTHON_{name}", sys.executable)
    return Checkout(Path(os.environ[f"PARITY_OFFICIAL_{name}"]), Path(python))


@pytest.fixture
def sglang_python() -> Path:
    """The interpreter of SGLang's environment."""
    return Path(os.environ["PARITY_SGLANG_PYTHON"])


@pytest.fixture
def comfyui() -> tuple[Path, Path]:
    """The interpreter of ComfyUI's environment, and its checkout with Lightricks' nodes."""
    return Path(os.environ["PARITY_COMFYUI_PYTHON"]), Path(os.environ["PARITY_COMFYUI_ROOT"])


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deselect tests of a release or engine that is not here, and remember why."""
    reasons: dict[str, list[pytest.Item]] = {}
    for item in items:
        release = getattr(item, "callspec", None) and item.callspec.params.get("release")  # type: ignore[attr-defined]
        if "released_checkout" in getattr(item, "fixturenames", ()) and (missing := missing_variables(str(release))):
            reason = (
                f"{' and '.join(missing)} not set: a checkout of Lightricks/LTX-2 at {COMMITS[str(release)]} "
                "and the interpreter that runs it, see docs/runners.md"
            )
            reasons.setdefault(reason, []).append(item)
        for fixture, (variables, what) in ENGINES.items():
            unset = [name for name in variables if not os.environ.get(name)]
            if fixture in getattr(item, "fixturenames", ()) and unset:
                reasons.setdefault(f"{' and '.join(unset)} not set: {what}, see docs/engines.md", []).append(item)
    left_out = {id(item) for found in reasons.values() for item in found}
    if left_out:
        config.hook.pytest_deselected(items=[item for item in items if id(item) in left_out])
        items[:] = [item for item in items if id(item) not in left_out]
    lines = [f"{len(found)} deselected: {reason}" for reason, found in reasons.items()]
    config.stash[LEFT_OUT] = lines
    if hasattr(config, "workeroutput"):  # one of several processes; the one that prints collects nothing itself
        config.workeroutput["left_out"] = lines


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Take over what a worker left out; all of them leave out the same."""
    node.config.stash[LEFT_OUT] = getattr(node, "workeroutput", {}).get("left_out", [])


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Name what was left out."""
    for line in config.stash.get(LEFT_OUT, []):
        terminalreporter.write_line(line)
