from pathlib import Path

import pytest
from transformers import AutoTokenizer, GemmaTokenizer

from runners.forge.presets import preset_named
from runners.forge.tokenizer import write_tokenizer
from runners.ltx23.sampling import DEFAULT_NEGATIVE_PROMPT

TEXTS = (
    DEFAULT_NEGATIVE_PROMPT,
    "An astronaut — smiling! 3D\n\n  two spaces <start_of_turn>user\nhi<end_of_turn> émoji 😀",
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tokenizer")
    write_tokenizer(folder)
    return folder


@pytest.mark.parametrize("text", TEXTS, ids=["negative", "odd"])
def test_fast_and_sentencepiece_agree_and_text_survives(folder: Path, text: str) -> None:
    fast = AutoTokenizer.from_pretrained(str(folder), local_files_only=True)
    slow = GemmaTokenizer(str(folder / "tokenizer.model"))
    ids = fast(text).input_ids
    assert fast.is_fast and ids == slow(text).input_ids
    assert ids[0] == fast.bos_token_id
    assert fast.decode(ids[1:]) == text


def test_the_default_negative_prompt_fits_and_is_longer_than_the_tiny_window(folder: Path) -> None:
    fast = AutoTokenizer.from_pretrained(str(folder), local_files_only=True)
    text_config = preset_named("tiny").gemma["text_config"]
    assert text_config["sliding_window"] < len(fast(DEFAULT_NEGATIVE_PROMPT).input_ids) < 1024
    assert len(fast) == text_config["vocab_size"]


def test_special_tokens_have_the_ids_of_the_configuration(folder: Path) -> None:
    fast = AutoTokenizer.from_pretrained(str(folder), local_files_only=True)
    gemma = preset_named("tiny").gemma
    ids = fast.convert_tokens_to_ids([fast.boi_token, fast.eoi_token, fast.image_token, "<end_of_turn>"])
    assert ids == [gemma["boi_token_index"], gemma["eoi_token_index"], gemma["image_token_index"], 106]
    assert (fast.pad_token_id, fast.eos_token_id, fast.bos_token_id, fast.unk_token_id) == (0, 1, 2, 3)
