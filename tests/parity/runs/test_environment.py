"""The fingerprint of an environment, and which of its differences can change numbers."""

import json
import platform
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch

from parity.runs import environment
from parity.runs.environment import NUMERIC_KEYS, differences, fingerprint, source_hash

CPU = torch.device("cpu")
ROOT = Path(__file__).parents[3]


def test_a_fingerprint_is_plain_data_and_names_what_computes() -> None:
    found = fingerprint(CPU)
    assert json.loads(json.dumps(found)) == found
    assert found["torch"] == torch.__version__.split("+")[0] or found["torch"] == torch.__version__
    assert found["ltx-core"] == "1.0.0" and found["python"] == platform.python_version()
    assert found["device"] == "cpu" and found["threads"] == torch.get_num_threads() and found["cpu"]
    assert "math" in found["sdpa_backends"]
    assert "driver" not in found


def named(reference: dict[str, Any], candidate: dict[str, Any]) -> list[str]:
    return [one.beside for one in differences(reference, candidate)]


def test_only_differences_that_can_change_bits_are_named() -> None:
    reference = fingerprint(CPU)
    assert named(reference, dict(reference)) == []
    harmless = {"platform": "another", "python": "3.0", "diffusers": None, "source_hash": "x"}
    assert named(reference, reference | harmless) == []
    moved = reference | {"threads": 77, "torch": "9.9"}
    assert named(reference, moved) == [
        f"torch: {reference['torch']} against 9.9",
        f"threads: {reference['threads']} against 77",
    ]
    gone = {key: value for key, value in reference.items() if key != "cpu"}
    assert named(reference, gone) == [f"cpu: {reference['cpu']} against None"]


def test_cores_are_recorded_and_differ_without_a_word() -> None:
    """No bit follows them: the encoder's threads are fixed, and torch's threads have a key of their own."""
    here = fingerprint(CPU)
    assert here["cores"] >= 1
    assert named(here, here | {"cores": here["cores"] + 3}) == []


def test_every_numeric_key_is_reported_somewhere() -> None:
    elsewhere = {"device_name", "driver", "cuda", "cudnn", "changed_flags"}  # on a GPU, and where a flag was changed
    assert set(NUMERIC_KEYS) - elsewhere <= fingerprint(CPU).keys()


def test_switches_of_torch_are_seen() -> None:
    before = fingerprint(CPU)
    torch.use_deterministic_algorithms(True)
    torch.backends.cuda.enable_flash_sdp(False)
    try:
        changed = differences(before, fingerprint(CPU))
    finally:
        torch.use_deterministic_algorithms(False)
        torch.backends.cuda.enable_flash_sdp(True)
    assert [one.key for one in changed] == ["sdpa_backends", "deterministic_algorithms"]


def test_flags_are_recorded_once_they_are_not_as_torch_starts() -> None:
    before = fingerprint(CPU)
    assert "changed_flags" not in before  # so that records from before flags were kept still agree
    torch.backends.cudnn.benchmark = True
    torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = False
    try:
        after = fingerprint(CPU)
    finally:
        torch.backends.cudnn.benchmark = False
        torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = True
    changed = {"cudnn.benchmark": True, "cuda.matmul.allow_bf16_reduced_precision_reduction": False}
    assert after["changed_flags"] == changed
    assert named(before, after) == [f"changed_flags: None against {changed}"]


def test_an_engine_that_sets_precisions_by_their_newer_names_has_a_fingerprint_too(warm: Path) -> None:
    # In a process of its own: torch refuses the older names from then on.
    program = """
import json, torch
from parity.runs.environment import fingerprint
torch.backends.cudnn.conv.fp32_precision = "ieee"
torch.backends.cuda.matmul.fp32_precision = "tf32"
print(json.dumps(fingerprint(torch.device("cpu"))))
"""
    done = subprocess.run([warm, "-c", program], capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)
    assert found["changed_flags"] == {"cudnn.allow_tf32": "cudnn.conv.fp32_precision = ieee"}
    assert found["float32_matmul_precision"] == "cuda.matmul.fp32_precision = tf32"


def test_a_package_that_is_not_installed_has_no_version(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment, "PACKAGES", ("torch", "no-such-package-here"))
    assert fingerprint(CPU)["no-such-package-here"] is None
    assert len(source_hash()) == 64


@pytest.mark.gpu
def test_a_gpu_is_named_with_its_driver() -> None:
    found = fingerprint(torch.device("cuda"))
    assert found["device_name"] and found["device_bytes"] > 1 << 30 and found["cuda"] and found["cudnn"]
