"""Text encoding against the official text encoder, one prompt a call."""

from collections.abc import Callable
from types import SimpleNamespace

import torch

from runners.ltx23.stages.batch import Batch
from runners.tap import listening


def test_both_prompts_have_the_official_hidden_states(
    models: SimpleNamespace, make_batch: Callable[..., Batch]
) -> None:
    batch = make_batch({"request.prompt": "  A cat — purring.\n", "request.negative_prompt": ""}, models.dtype)
    heard: dict[str, torch.Tensor] = {}
    with listening(heard.__setitem__):
        models.native.text_encoder().forward(batch)
    official = models.official.text_encoder()
    for prompt, hidden, mask in (
        ("  A cat — purring.\n", batch.prompt_embeds, batch.prompt_attention_mask),
        ("", batch.negative_prompt_embeds, batch.negative_attention_mask),
    ):
        wanted, wanted_mask = official.encode(prompt)
        assert isinstance(hidden, torch.Tensor) and isinstance(mask, torch.Tensor)
        assert torch.equal(hidden, torch.stack(wanted, dim=-1)) and torch.equal(mask, wanted_mask)
        assert hidden.dtype == models.dtype and hidden.shape == (1, 1024, 72, 4)
        sign = "pos" if prompt else "neg"
        real = [place for place in range(1024) if mask[0, place]]
        assert torch.equal(heard[f"text/{sign}/hidden"], hidden[:, real]), "without padding is what is heard"
        assert len(real) < 20 if prompt else len(real) == 1  # of an empty prompt the token that begins it
    assert list(heard) == ["text/pos/hidden", "text/neg/hidden"]


def test_without_guidance_the_negative_prompt_is_not_encoded(
    models: SimpleNamespace, make_batch: Callable[..., Batch]
) -> None:
    batch = make_batch({"guidance.video.cfg_scale": 1.0, "guidance.audio.cfg_scale": 1.0}, models.dtype)
    models.native.text_encoder().forward(batch)
    assert batch.prompt_embeds is not None
    assert batch.negative_prompt_embeds is None and batch.negative_attention_mask is None
