"""Text connector: Gemma's hidden states to what video and audio attend to, one prompt a call.

The official pipeline sends the positive and the negative prompt through the connectors in two calls. Batching them
changes the numbers, since matrix products of another shape round differently.
"""

from torch import Tensor

from runners.ltx23.connectors import TextConnectors
from runners.ltx23.stages.batch import Batch, needed
from runners.tap import tap


class LTX2TextConnectorStage:
    """Fills in `video_context` and `audio_context` and, with classifier-free guidance, the negative ones."""

    def __init__(self, connectors: TextConnectors) -> None:
        self.connectors = connectors

    def forward(self, batch: Batch) -> Batch:
        """Connect the batch's prompts, in two separate calls with guidance, in one without.

        Raises: StageInputError, a ValueError, naming this stage and the embeddings or mask that are missing or an empty
        list: the positive ones always, the negative ones when guidance is on.
        """
        stage = type(self).__name__
        embeds = needed(batch.prompt_embeds, stage, "prompt_embeds")
        mask = needed(batch.prompt_attention_mask, stage, "prompt_attention_mask")
        if batch.do_classifier_free_guidance:
            negative_embeds = needed(batch.negative_prompt_embeds, stage, "negative_prompt_embeds")
            negative_mask = needed(batch.negative_attention_mask, stage, "negative_attention_mask")
        batch.video_context, batch.audio_context = self._connect(embeds, mask, "pos")
        if batch.do_classifier_free_guidance:
            negative = self._connect(negative_embeds, negative_mask, "neg")
            batch.negative_video_context, batch.negative_audio_context = negative
        return batch

    def _connect(self, embeds: Tensor, mask: Tensor, sign: str) -> tuple[Tensor, Tensor]:
        video: Tensor
        audio: Tensor
        video, audio = self.connectors(embeds.unbind(-1), mask)
        tap(f"connector/{sign}/video", video)
        tap(f"connector/{sign}/audio", audio)
        return video, audio
