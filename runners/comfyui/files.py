"""Identification of a ComfyUI checkout: its version, Lightricks' nodes in it, and a hash over the Python files of each.

Read from the files alone, so that the process that asks for a run can tell, too; nothing of them is imported here.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from runners.engine_files import EngineFiles, files_hash
from runners.errors import RunnerError
from runners.load import read_text

NODES: Final = Path("custom_nodes/ComfyUI-LTXVideo")  # below the checkout, where ComfyUI looks for it
PACKAGES: Final = ("comfy", "comfy_api", "comfy_execution", "comfy_extras", "utils")  # and the modules beside them
KNOWN: Final = {
    "4cb1d65e85501bceeafc02436c15af4c0e7e9dd72a0a9018b8c5730794b66ef8": "0.25.0 at 0a92ed1",
}  # hash -> version and commit
KNOWN_NODES: Final = {
    "c8319c6e16a361f4e3a34fd02b3f1fb400d1cec40809bc1c025c34566fce6e29": "at aceeae9",
}


@dataclass(frozen=True, kw_only=True)
class Checkout:
    """The code that a run executes."""

    comfyui: EngineFiles
    nodes: EngineFiles

    @property
    def words(self) -> list[str]:
        """Both versions, each with a note if it is none that this project knows."""
        return [self.comfyui.words, self.nodes.words]

    def details(self) -> dict[str, Any]:
        """Facts of the code, which a run of it records."""
        return {
            "comfyui_version": self.comfyui.version,
            "comfyui_sha256": self.comfyui.sha256,
            "comfyui_known": self.comfyui.known,
            "ltxvideo_sha256": self.nodes.sha256,
            "ltxvideo_known": self.nodes.known,
        }


def require_checkout(root: Path) -> None:
    """Refuse a folder that lacks a part. Raises: RunnerError naming it and what to do."""
    for path, what in ((Path("comfyui_version.py"), "ComfyUI"), (NODES / "guiders", "Lightricks' nodes")):
        if not (root / path).exists():
            raise RunnerError(
                f"--engine-root {root} has no {path}, so there is no checkout of {what}; docs/engines.md says which "
                "commits to check out, and where."
            )


def checkout_in(root: Path) -> Checkout:
    """Recognise a checkout by its files. Raises: RunnerError for a folder that is none."""
    require_checkout(root)
    text = read_text(root / "comfyui_version.py", RunnerError, "take a whole checkout of ComfyUI")
    found = re.search(r"""^__version__ = ["']([^"'\n]{1,40})["']""", text, re.MULTILINE)
    nodes = root / NODES
    return Checkout(
        comfyui=EngineFiles(
            engine="ComfyUI",
            version="of unknown version" if found is None else found[1],
            sha256=files_hash(root, _modules(root)),
            versions=KNOWN,
        ),
        nodes=EngineFiles(
            engine="ComfyUI-LTXVideo",
            version="of unknown version",  # it says none
            sha256=files_hash(nodes, nodes.rglob("*.py")),
            versions=KNOWN_NODES,
        ),
    )


def _modules(root: Path) -> Iterator[Path]:
    yield from root.glob("*.py")
    for package in PACKAGES:
        yield from (root / package).rglob("*.py")
