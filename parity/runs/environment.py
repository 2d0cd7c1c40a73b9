"""The fingerprint of where a run was made, and which of its differences change numbers.

A reference that ran in another environment is another reference: the same code gives other bits with another torch,
processor, thread count or attention kernel. So a mismatch is named before any number is compared.
"""

import hashlib
import os
import platform
from collections.abc import Callable, Collection
from functools import cache, partial
from importlib import metadata
from operator import attrgetter
from pathlib import Path
from typing import Any, Final

import torch

import runners
from parity.runs.difference import Difference
from runners.repeatable import repeatable_kernels

PACKAGES = (
    "torch",
    "transformers",
    "tokenizers",
    "numpy",
    "av",
    "pillow",
    "einops",
    "ltx-core",
    "ltx-pipelines",
    "diffusers",
)

# What can change bits. The rest of a fingerprint is for people.
NUMERIC_KEYS = (
    "torch",
    "transformers",
    "tokenizers",
    "av",
    "pillow",
    "device",
    "device_name",
    "driver",
    "cuda",
    "cudnn",
    "cpu",
    "cpu_capability",
    "threads",
    "sdpa_backends",
    "float32_matmul_precision",
    "deterministic_algorithms",
    "changed_flags",
)

MOST_THREADS: Final = 4096  # that any machine computes on, and so any run says

# What torch starts with. A flag is recorded once it has been changed, so that older records agree with newer ones.
DEFAULT_FLAGS = {
    "cudnn.allow_tf32": True,
    "cudnn.benchmark": False,
    "cudnn.deterministic": False,
    "cuda.matmul.allow_bf16_reduced_precision_reduction": True,
}


def fingerprint(device: torch.device) -> dict[str, Any]:
    """Everything worth knowing about this process and the device it computes on, as plain JSON data."""
    found: dict[str, Any] = {name: _version(name) for name in PACKAGES}
    found |= {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "device": device.type,
        "cpu": _cpu_model(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "cores": os.cpu_count(),
        "float32_matmul_precision": _read(torch.get_float32_matmul_precision, "cuda.matmul.fp32_precision"),
        "deterministic_algorithms": torch.are_deterministic_algorithms_enabled(),
        "sdpa_backends": sdpa_backends(),
        "source_hash": source_hash(),
    }
    if flags := changed_flags():
        found["changed_flags"] = flags
    if device.type == "cuda":
        found |= {
            "device_name": torch.cuda.get_device_name(device),
            "device_bytes": torch.cuda.get_device_properties(device).total_memory,
            "cuda": torch.version.cuda,
            "cudnn": torch.backends.cudnn.version(),  # type: ignore[no-untyped-call]
            "driver": _driver(),
        }
    return found


def fingerprint_of_runs(device: torch.device, release: str) -> dict[str, Any]:
    """The environment that a run of this release would record here."""
    with repeatable_kernels(device, release):
        return fingerprint(device)


def changed_flags() -> dict[str, Any]:
    """Flags that choose kernels or precisions and are not as torch starts with them."""
    newer = {"cudnn.allow_tf32": "cudnn.conv.fp32_precision"}
    now = {name: _read(partial(_flag, name), newer.get(name, name)) for name in DEFAULT_FLAGS}
    return {name: value for name, value in now.items() if value != DEFAULT_FLAGS[name]}


def _flag(name: str) -> Any:
    return attrgetter(name)(torch.backends)


def _read(older: Callable[[], Any], newer: str) -> Any:
    """A setting by its older name, or by the newer one if an engine has used that: torch then refuses the older."""
    try:
        return older()
    except RuntimeError:
        return f"{newer} = {_flag(newer)}"


def sdpa_backends() -> list[str]:
    """The attention kernels that torch may choose from in this process."""
    cuda = torch.backends.cuda
    enabled = {
        "flash": cuda.flash_sdp_enabled(),  # type: ignore[no-untyped-call]
        "efficient": cuda.mem_efficient_sdp_enabled(),  # type: ignore[no-untyped-call]
        "math": cuda.math_sdp_enabled(),  # type: ignore[no-untyped-call]
        "cudnn": cuda.cudnn_sdp_enabled(),  # type: ignore[no-untyped-call]
    }
    return [name for name, on in enabled.items() if on]


def differences(
    reference: dict[str, Any], candidate: dict[str, Any], without: Collection[str] = ()
) -> list[Difference]:
    """Differences that can change bits; those of keys in `without` left out."""
    return [
        Difference(key=key, old=str(reference.get(key)), new=str(candidate.get(key)))
        for key in NUMERIC_KEYS
        if key not in without and reference.get(key) != candidate.get(key)
    ]


@cache
def source_hash() -> str:
    """Hash of the source of `runners`, which holds everything that computes."""
    folder = Path(runners.__file__).parent
    total = hashlib.sha256()
    for path in sorted(folder.rglob("*.py")):
        total.update(str(path.relative_to(folder)).encode() + b"\0" + path.read_bytes() + b"\0")
    return total.hexdigest()


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


@cache
def _cpu_model() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _driver() -> str | None:
    try:
        first = Path("/proc/driver/nvidia/version").read_text(encoding="utf-8", errors="replace").splitlines()[0]
    except (OSError, IndexError):
        return None
    return next((word for word in first.split() if word[:1].isdigit() and "." in word), None)
