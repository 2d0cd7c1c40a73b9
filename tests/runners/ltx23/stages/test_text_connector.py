"""`LTX2TextConnectorStage`: one prompt a call, with the official bits, and every missing input named."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from runners.ltx23.connectors import TextConnectors
from runners.ltx23.stages.batch import Batch
from runners.ltx23.stages.text_connector import LTX2TextConnectorStage

EMBEDS, MASK = torch.randn(1, 128, 6, 3), torch.ones(1, 128, dtype=torch.int64)
FIELDS = ("prompt_embeds", "prompt_attention_mask", "negative_prompt_embeds", "negative_attention_mask")


class TraceWriter:
    """Stands in for the connectors and writes down its calls."""

    def __init__(self) -> None:
        self.calls: list[tuple[tuple[Tensor, ...], Tensor]] = []

    def __call__(self, hidden_states: tuple[Tensor, ...], mask: Tensor) -> tuple[Tensor, Tensor]:
        self.calls.append((hidden_states, mask))
        return hidden_states[0] + 1, hidden_states[0] + 2


def stage_and_recorder() -> tuple[LTX2TextConnectorStage, TraceWriter]:
    writer: Any = TraceWriter()
    return LTX2TextConnectorStage(writer), writer


def filled(batch: Batch) -> Batch:
    batch.prompt_embeds, batch.prompt_attention_mask = EMBEDS, MASK
    batch.negative_prompt_embeds, batch.negative_attention_mask = -EMBEDS, MASK * 2
    return batch


def test_positive_and_negative_prompts_go_through_in_two_separate_calls(make_batch: Callable[..., Batch]) -> None:
    stage, writer = stage_and_recorder()
    batch = stage.forward(filled(make_batch()))
    assert [states[0].shape for states, _ in writer.calls] == [(1, 128, 6), (1, 128, 6)]  # never a batch of two
    for (states, mask), sign, wanted_mask in zip(writer.calls, (1, -1), (MASK, MASK * 2), strict=True):
        assert torch.equal(torch.stack(states, dim=-1), sign * EMBEDS) and mask is not None
        assert torch.equal(mask, wanted_mask)
    for made, wanted in (
        (batch.video_context, EMBEDS[..., 0] + 1),
        (batch.audio_context, EMBEDS[..., 0] + 2),
        (batch.negative_video_context, 1 - EMBEDS[..., 0]),
        (batch.negative_audio_context, 2 - EMBEDS[..., 0]),
    ):
        assert made is not None and torch.equal(made, wanted)


def test_without_guidance_only_the_positive_fields_are_set(make_batch: Callable[..., Batch]) -> None:
    stage, writer = stage_and_recorder()
    batch = filled(make_batch({"guidance.video.cfg_scale": 1.0, "guidance.audio.cfg_scale": 1.0}))
    assert not batch.do_classifier_free_guidance
    batch.negative_prompt_embeds = None
    stage.forward(batch)
    assert len(writer.calls) == 1
    assert batch.video_context is not None and batch.audio_context is not None
    assert batch.negative_video_context is None and batch.negative_audio_context is None


@pytest.mark.parametrize("field", FIELDS)
@pytest.mark.parametrize("absent", [None, []], ids=str)
def test_what_is_missing_raises_value_error_naming_stage_and_field(
    field: str, absent: list[Tensor] | None, make_batch: Callable[..., Batch]
) -> None:
    stage, writer = stage_and_recorder()
    batch = filled(make_batch())
    setattr(batch, field, absent)
    with pytest.raises(ValueError, match=f"LTX2TextConnectorStage needs {field}, which is missing"):
        stage.forward(batch)
    assert writer.calls == []  # nothing half done
    batch.do_classifier_free_guidance = False
    if field.startswith("negative"):
        stage.forward(batch)
    else:
        with pytest.raises(ValueError, match=f"LTX2TextConnectorStage needs {field}"):
            stage.forward(batch)


def test_of_lists_the_first_element_is_taken(make_batch: Callable[..., Batch]) -> None:
    stage, writer = stage_and_recorder()
    batch = filled(make_batch())
    for field in FIELDS:
        setattr(batch, field, [getattr(batch, field), torch.full((2, 2), 7.0)])
    stage.forward(batch)
    assert torch.equal(torch.stack(writer.calls[0][0], dim=-1), EMBEDS)
    assert torch.equal(torch.stack(writer.calls[1][0], dim=-1), -EMBEDS)


def test_both_contexts_have_the_official_bits(models: SimpleNamespace, make_batch: Callable[..., Batch]) -> None:
    batch = make_batch(dtype=models.dtype)
    generator = torch.Generator().manual_seed(8)
    hidden = [torch.randn(1, 256, 72, 4, generator=generator).to(models.dtype) for _ in range(2)]
    masks = [torch.ones(1, 256, dtype=torch.int64) for _ in range(2)]
    masks[0][:, :101] = 0
    masks[1][:, :250] = 0
    batch.prompt_embeds, batch.negative_prompt_embeds = hidden
    batch.prompt_attention_mask, batch.negative_attention_mask = masks
    LTX2TextConnectorStage(models.native.build("connectors", TextConnectors)).forward(batch)
    official = models.official.gemma_embeddings_processor()
    contexts = (
        (batch.video_context, batch.audio_context),
        (batch.negative_video_context, batch.negative_audio_context),
    )
    for states, mask, (video, audio) in zip(hidden, masks, contexts, strict=True):
        wanted = official.process_hidden_states(states.unbind(-1), mask)
        assert video is not None and audio is not None
        assert torch.equal(video, wanted.video_encoding) and torch.equal(audio, wanted.audio_encoding)
        assert video.dtype == models.dtype and (video.shape[-1], audio.shape[-1]) == (96, 48)
