"""LoRAs of a case: the places that they are found in, and the names that stand for them in a record."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from runners.case import Case, case_document, case_of, case_text, parse_case
from runners.errors import CaseError, CheckpointError
from runners.forge.make import LORA_NAME
from runners.forge.weights import ForgedWeights
from runners.loras import lora_hashes, loras_of, stage_loras, with_loras
from runners.request import Lora
from runners.weights import WeightsFolder

CPU = torch.device("cpu")


@pytest.fixture
def style(micro_weights: WeightsFolder, tmp_path: Path) -> Path:
    """A LoRA of one layer outside the weights folder."""
    tensors = load_file(micro_weights.folder / LORA_NAME)
    path = tmp_path / "style.safetensors"
    save_file({key: 2 * value for key, value in tensors.items() if "0.attn1.to_q." in key}, path)
    return path


def test_a_lora_is_found_beside_the_weights_the_case_or_where_the_command_line_says(
    micro_weights: WeightsFolder, micro_case: Callable[..., Case], micro_case_text: str, style: Path
) -> None:
    beside_weights = micro_case({"loras": [{"path": LORA_NAME, "strength": 0.5}]})
    given = with_loras(beside_weights, [f"{style}:-0.25", f"{LORA_NAME}:1"])
    assert given.loras[1:] == (Lora(path="style.safetensors", strength=-0.25), Lora(path=LORA_NAME, strength=1.0))
    found = loras_of(given, micro_weights)
    assert [(one.name, one.strength) for one in found] == [
        (LORA_NAME, 0.5),
        ("style.safetensors", -0.25),
        (LORA_NAME, 1),
    ]
    beside_case = parse_case(micro_case_text, style.parent, {"loras": [{"path": style.name}]})
    assert loras_of(beside_case, micro_weights)[0].source.shapes == found[1].source.shapes
    hashes = lora_hashes(given, micro_weights, CPU)
    assert hashes.keys() == {LORA_NAME, style.name} and len(set(hashes.values())) == 2
    assert hashes[style.name] == lora_hashes(beside_case, micro_weights, CPU)[style.name]


def test_a_record_names_files_without_their_places_and_a_child_finds_them(
    micro_case: Callable[..., Case], style: Path
) -> None:
    plain = micro_case()
    assert not {"loras", "quantization", "lora_files"} & case_document(plain).keys()  # as before there were any
    case = with_loras(plain, [f"{style}:2"])
    document = case_document(case)
    assert document["loras"] == [{"path": style.name, "strength": 2.0}] and str(style.parent) not in str(document)
    assert case_of(document, case.folder, case.lora_files) == case
    again = parse_case(case_text(case), Path(case.folder))
    assert case_document(again) == document


def test_names_that_lead_nowhere_are_refused(
    micro_weights: WeightsFolder, micro_case: Callable[..., Case], style: Path
) -> None:
    for text in ("style.safetensors", ":0.5", f"{style}:much", f"{style}:nan"):
        with pytest.raises(CaseError, match="--lora wants FILE:STRENGTH"):
            with_loras(micro_case(), [text])
    with pytest.raises(CaseError, match="there is no file"):
        with_loras(micro_case(), ["nowhere/style.safetensors:1"])
    other = style.parent / "other"
    other.mkdir()
    (other / style.name).write_bytes(style.read_bytes())
    with pytest.raises(CaseError, match="two files that are called"):
        with_loras(micro_case(), [f"{style}:1", f"{other / style.name}:1"])
    for path in ("../style.safetensors", str(style)):
        with pytest.raises(CaseError, match="leaves the case's folder"):
            loras_of(micro_case({"loras": [{"path": path}]}), micro_weights)
    with pytest.raises(CheckpointError, match="neither beside the case file nor a file in"):
        loras_of(micro_case({"loras": [{"path": "missing.safetensors"}]}), micro_weights)
    for bad in ({"path": ""}, {"path": "x", "strength": float("inf")}):
        with pytest.raises(CaseError, match=r"loras\[0\]"):
            micro_case({"loras": [bad]})
    with pytest.raises(CaseError, match="unknown key 'lora_files'"):
        micro_case({"lora_files": ["/x"]})


def test_made_weights_have_the_one_lora_that_they_would_be_written_with(tmp_path: Path) -> None:
    made = ForgedWeights("tiny", 0, CPU).lora(LORA_NAME)
    assert made.shapes["diffusion_model.transformer_blocks.0.attn1.to_q.lora_A.weight"][0] == 6
    with pytest.raises(CheckpointError, match="one LoRA"):
        ForgedWeights("tiny", 0, CPU).lora("other.safetensors")


def test_stages_fuse_the_distilled_lora_after_the_cases_own(
    micro_weights: WeightsFolder, micro_case: Callable[..., Case]
) -> None:
    own = {"loras": [{"path": LORA_NAME, "strength": 0.7}]}
    assert [[one.strength for one in loras] for loras in stage_loras(micro_case(own), micro_weights)] == [[0.7]]
    size = {"request.height": 64, "request.width": 64}
    for pipeline, strengths in (("two_stage", [[0.7], [0.7, 1.0]]), ("two_stage_hq", [[0.7, 0.25], [0.7, 0.5]])):
        loras = stage_loras(micro_case(own | size | {"pipeline": pipeline}), micro_weights)
        assert [[one.strength for one in stage] for stage in loras] == strengths
