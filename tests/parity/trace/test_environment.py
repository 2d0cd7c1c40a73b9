"""The fingerprint of an environment, and which of its differences can change numbers."""

import json
import platform

import pytest
import torch

from parity.trace import environment
from parity.trace.environment import NUMERIC_KEYS, differences, fingerprint, source_hash

CPU = torch.device("cpu")


def test_a_fingerprint_is_plain_data_and_names_what_computes() -> None:
    found = fingerprint(CPU)
    assert json.loads(json.dumps(found)) == found
    assert found["torch"] == torch.__version__.split("+")[0] or found["torch"] == torch.__version__
    assert found["ltx-core"] == "1.0.0" and found["python"] == platform.python_version()
    assert found["device"] == "cpu" and found["threads"] == torch.get_num_threads() and found["cpu"]
    assert "math" in found["sdpa_backends"]
    assert "driver" not in found


def test_only_differences_that_can_change_bits_are_named() -> None:
    reference = fingerprint(CPU)
    assert differences(reference, dict(reference)) == []
    harmless = {"platform": "another", "cores": 999, "python": "3.0", "diffusers": None, "source_hash": "x"}
    assert differences(reference, reference | harmless) == []
    moved = reference | {"threads": 77, "torch": "9.9"}
    assert differences(reference, moved) == [
        f"torch: {reference['torch']} against 9.9",
        f"threads: {reference['threads']} against 77",
    ]
    gone = {key: value for key, value in reference.items() if key != "cpu"}
    assert differences(reference, gone) == [f"cpu: {reference['cpu']} against None"]


def test_every_numeric_key_is_reported_somewhere() -> None:
    cuda_only = {"device_name", "driver", "cuda", "cudnn"}
    assert set(NUMERIC_KEYS) - cuda_only <= fingerprint(CPU).keys()


def test_switches_of_torch_are_seen() -> None:
    before = fingerprint(CPU)
    torch.use_deterministic_algorithms(True)
    torch.backends.cuda.enable_flash_sdp(False)
    try:
        changed = differences(before, fingerprint(CPU))
    finally:
        torch.use_deterministic_algorithms(False)
        torch.backends.cuda.enable_flash_sdp(True)
    assert [phrase.split(":")[0] for phrase in changed] == ["sdpa_backends", "deterministic_algorithms"]


def test_a_package_that_is_not_installed_has_no_version(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment, "PACKAGES", ("torch", "no-such-package-here"))
    assert fingerprint(CPU)["no-such-package-here"] is None
    assert len(source_hash()) == 64


@pytest.mark.gpu
def test_a_gpu_is_named_with_its_driver() -> None:
    found = fingerprint(torch.device("cuda"))
    assert found["device_name"] and found["device_bytes"] > 1 << 30 and found["cuda"] and found["cudnn"]
