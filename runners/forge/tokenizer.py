"""The made Gemma tokenizer: byte-pair pieces learned from a paragraph, written as the files Gemma comes with.

It has Gemma's special tokens, byte fallback and spaces as part of pieces, so any text encodes, and it is built piece
by piece rather than by the sentencepiece trainer, whose choices may change with its version.
"""

from collections import Counter
from itertools import pairwise
from pathlib import Path

from runners.errors import ConfigError
from runners.forge.presets import MADE_VOCABULARY_SIZE

_TEXT = """
A close-up of a cheerful astronaut holding a helmet in front of a flag, smiling at the camera. The camera slowly
pushes in while soft light moves across her face, and she says: "We are going back to the moon." Behind her a rocket
stands on the launch pad, white smoke rising from the engines; the wind is heard, then music, voices and distant
waves. Cinematic lighting, shallow depth of field, natural skin tones, realistic motion, a stable shot, clear dialogue.
A golden retriever runs along the beach at sunset, water splashing, children laughing, the sound of the ocean and of
birds in the background. Rain falls on a city street at night; neon signs reflect in the puddles, a car passes by,
thunder rolls. The video shows an old man playing the piano in a wooden room, warm colors, dust in the light, his hands
moving over the keys with quiet precision. Blurry, out of focus, overexposed, underexposed, low contrast, noise,
flickering, distorted, deformed, inconsistent, unnatural, background, audio, off-sync, artifacts.
"""
_SPACE = "\u2581"  # what sentencepiece writes for a space
_PAD, _EOS, _BOS, _UNK = "<pad>", "<eos>", "<bos>", "<unk>"
_BOI, _EOI, _IMAGE = "<start_of_image>", "<end_of_image>", "<image_soft_token>"
_TURNS = ("<start_of_turn>", "<end_of_turn>")  # ids 105 and 106 in the released Gemma, which ends its answers with 106
_FIRST_TURN_ID = 105


def write_tokenizer(folder: Path) -> None:
    """Write tokenizer.model, tokenizer.json, tokenizer_config.json and special_tokens_map.json into `folder`.

    `AutoTokenizer.from_pretrained(folder, local_files_only=True)` then gives a fast Gemma tokenizer that has
    `image_token`, `boi_token` and `eoi_token`. Two calls write the same bytes.
    """
    from transformers import GemmaTokenizerFast

    model_path = folder / "tokenizer.model"
    model_path.write_bytes(_sentencepiece_model())
    tokenizer = GemmaTokenizerFast(
        vocab_file=str(model_path),
        pad_token=_PAD,
        eos_token=_EOS,
        bos_token=_BOS,
        unk_token=_UNK,
        padding_side="left",
        add_bos_token=True,
        add_eos_token=False,
        extra_special_tokens={"image_token": _IMAGE, "boi_token": _BOI, "eoi_token": _EOI},
        chat_template=_CHAT_TEMPLATE,
    )
    if len(tokenizer) != MADE_VOCABULARY_SIZE:
        raise ConfigError(
            f"The made tokenizer wants {MADE_VOCABULARY_SIZE} tokens; transformers made {len(tokenizer)}."
        )
    tokenizer.save_pretrained(folder)


_CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}<start_of_turn>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<start_of_image>{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% endif %}<end_of_turn>\n{% endfor %}"
    "{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)


def _sentencepiece_model() -> bytes:
    from sentencepiece import sentencepiece_model_pb2 as schema

    kinds = schema.ModelProto.SentencePiece
    control = [_PAD, _EOS, _BOS]
    pieces: list[tuple[str, float, int]] = [(token, 0.0, kinds.CONTROL) for token in control]
    pieces.append((_UNK, 0.0, kinds.UNKNOWN))
    unused = _FIRST_TURN_ID - len(pieces)
    pieces += [(f"<unused{i}>", 0.0, kinds.USER_DEFINED) for i in range(unused)]
    pieces += [(token, 0.0, kinds.USER_DEFINED) for token in _TURNS]
    pieces += [(f"<0x{byte:02X}>", 0.0, kinds.BYTE) for byte in range(256)]
    last = [(token, 0.0, kinds.USER_DEFINED) for token in (_BOI, _EOI, _IMAGE)]
    learned = _byte_pairs(MADE_VOCABULARY_SIZE - len(pieces) - len(last))
    pieces += [(piece, -float(rank), kinds.NORMAL) for rank, piece in enumerate(learned)] + last

    model = schema.ModelProto()
    for piece, score, kind in pieces:
        model.pieces.add(piece=piece, score=score, type=kind)
    trainer = model.trainer_spec
    trainer.model_type = schema.TrainerSpec.BPE
    trainer.vocab_size = len(pieces)
    trainer.byte_fallback = True
    trainer.pad_id, trainer.eos_id, trainer.bos_id, trainer.unk_id = 0, 1, 2, 3
    trainer.pad_piece, trainer.eos_piece, trainer.bos_piece, trainer.unk_piece = *control, _UNK
    normalizer = model.normalizer_spec
    normalizer.name = "identity"
    normalizer.add_dummy_prefix = False
    normalizer.remove_extra_whitespaces = False
    normalizer.escape_whitespaces = True
    data: bytes = model.SerializeToString(deterministic=True)
    return data


def _byte_pairs(count: int) -> list[str]:
    """`count` pieces in the order of their merging: merged pairs of the text above, then its single characters.

    Ties go to the pair that sorts first, so the outcome depends on nothing but the text.
    """
    characters = sorted({*map(chr, range(0x21, 0x7F)), _SPACE, "\n"})
    words = Counter(_SPACE + word for word in _TEXT.split())
    spelled = {word: list(word) for word in words}
    merged: list[str] = []
    while len(merged) < count - len(characters):
        pairs: Counter[tuple[str, str]] = Counter()
        for word, pieces in spelled.items():
            for pair in pairwise(pieces):
                pairs[pair] += words[word]
        if not pairs:
            raise ConfigError(f"The built-in text yields {len(merged)} pieces; {count - len(characters)} are wanted.")
        left, right = min(pairs, key=lambda pair: (-pairs[pair], pair))
        if left + right not in merged:  # the same piece may come about in two ways
            merged.append(left + right)
        for pieces in spelled.values():
            for i in range(len(pieces) - 1, 0, -1):
                if pieces[i - 1 : i + 1] == [left, right]:
                    pieces[i - 1 : i + 1] = [left + right]
    return merged + characters
