"""The LTX-2.3 diffusion transformer: noisy video and audio tokens, text and a noise level in, denoised tokens out.

Axes: B sample, A position axis, T token, S text token, P channel of a latent token, C channel of a stream. Video and
audio have their own T, P and C.

The network predicts a velocity; the denoised tokens follow as x0 = x - sigma v in float32, with each token's own
sigma, and are rounded back to the latent's dtype. What depends on the positions alone (rotary tables) is computed once
for a request, and what depends on the noise level alone (modulation) once for a step: the four guidance passes share
both, with the bits of a model that computes them again each time.

Source: ltx_core.model.transformer.model (`LTXModel`, `X0Model`), transformer_args and ltx_core.guidance.perturbations
1.0.0. There, scale and shift of the cross-modal attention follow the other stream's sigma; with the reference behaviour
`cross_timestep_per_token` they follow the own stream's timesteps, token by token, as since release 1.2.0 (repository
commit 400fd31).
"""

from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import ClassVar, Final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from runners.errors import ShapeError
from runners.ltx23.block import (
    BLOCK_ROWS,
    CROSS_GATE_ROWS,
    CROSS_SCALE_SHIFT_ROWS,
    PROMPT_ROWS,
    AudioVideoBlock,
    BlockSkips,
    StreamConditions,
    StreamModulation,
    StreamRotary,
)
from runners.ltx23.rotary import middle_of_cells, rotary_table
from runners.ltx23.shared_blocks import NOTHING_SHARED, PassInputs, SharedBlocks
from runners.ltx23.timestep import AdaLayerNormSingle, modulate
from runners.ltx23.transformer_config import StreamConfig, TransformerConfig
from runners.releases import ReleaseBehaviours
from runners.tap import scope, tapping

OUTPUT_ROWS: Final = 2  # of the output head's table: shift, scale


@dataclass(frozen=True, kw_only=True)
class ModalityInput:
    """One modality's part of a forward pass."""

    latent: Tensor  # (B, T, P) noisy tokens, in the dtype that the model runs in
    sigma: Tensor  # () or (B,) float32 noise level of the step
    timesteps: Tensor  # (B, T, 1) or (B, 1, 1) noise level of each token: denoise mask times sigma
    context: Tensor  # (B, S, C) text, from the connector
    enabled: bool = True  # False leaves the stream as projected in: nothing is added to it, but the other one sees it

    def __post_init__(self) -> None:
        batch, tokens = self.latent.shape[0], self.latent.shape[1]
        if self.timesteps.shape not in ((batch, tokens, 1), (batch, 1, 1)):
            raise ShapeError(
                f"timesteps must be (B, T, 1) or (B, 1, 1) for a latent of {tuple(self.latent.shape)}; "
                f"got {tuple(self.timesteps.shape)}."
            )
        if self.sigma.numel() != batch or self.sigma.ndim > 1:
            raise ShapeError(f"sigma must be ({batch},), or () for one sample; got {tuple(self.sigma.shape)}.")


@dataclass(frozen=True, kw_only=True)
class Skips:
    """Branches that a guidance pass takes out of the transformer, for every sample of the batch.

    Block numbers that the model does not have skip nothing, as in the reference.
    """

    video_self_attention: frozenset[int] = frozenset()  # blocks where values replace the attention's output
    audio_self_attention: frozenset[int] = frozenset()  # likewise
    a2v: bool = False  # video does not look at audio, in any block
    v2a: bool = False  # audio does not look at video, in any block

    def at(self, block: int) -> BlockSkips:
        """The skips of one block."""
        return BlockSkips(
            video_self_attention=block in self.video_self_attention,
            audio_self_attention=block in self.audio_self_attention,
            a2v=self.a2v,
            v2a=self.v2a,
        )


NO_SKIPS: Final = Skips()


@dataclass(frozen=True, kw_only=True)
class RotaryTables:
    """Rotary tables of a request; they hold as long as its positions do."""

    video: StreamRotary
    audio: StreamRotary


@dataclass(frozen=True, kw_only=True)
class Modulation:
    """Modulation of a step; it holds for every pass with the same sigma and timesteps."""

    video: StreamModulation
    audio: StreamModulation


class Transformer(nn.Module):
    """See the module. Parameters of video have no prefix, those of audio `audio_`, as in the checkpoint."""

    CHECKPOINT_PREFIXES: ClassVar[dict[str, str]] = {"": "model.diffusion_model."}

    def __init__(self, config: TransformerConfig, reference: ReleaseBehaviours) -> None:
        super().__init__()
        self.config, self.reference = config, reference
        video, audio = config.video.width, config.audio.width

        self.patchify_proj = nn.Linear(config.video.in_channels, video)
        self.adaln_single = AdaLayerNormSingle(video, BLOCK_ROWS)
        self.prompt_adaln_single = AdaLayerNormSingle(video, PROMPT_ROWS)
        self.scale_shift_table = nn.Parameter(torch.empty(OUTPUT_ROWS, video))
        self.proj_out = nn.Linear(video, config.video.out_channels)

        self.audio_patchify_proj = nn.Linear(config.audio.in_channels, audio)
        self.audio_adaln_single = AdaLayerNormSingle(audio, BLOCK_ROWS)
        self.audio_prompt_adaln_single = AdaLayerNormSingle(audio, PROMPT_ROWS)
        self.audio_scale_shift_table = nn.Parameter(torch.empty(OUTPUT_ROWS, audio))
        self.audio_proj_out = nn.Linear(audio, config.audio.out_channels)

        self.av_ca_video_scale_shift_adaln_single = AdaLayerNormSingle(video, CROSS_SCALE_SHIFT_ROWS)
        self.av_ca_audio_scale_shift_adaln_single = AdaLayerNormSingle(audio, CROSS_SCALE_SHIFT_ROWS)
        self.av_ca_a2v_gate_adaln_single = AdaLayerNormSingle(video, CROSS_GATE_ROWS)
        self.av_ca_v2a_gate_adaln_single = AdaLayerNormSingle(audio, CROSS_GATE_ROWS)

        self.transformer_blocks = nn.ModuleList([AudioVideoBlock(config) for _ in range(config.num_layers)])

    def rotary_tables(self, video_positions: Tensor, audio_positions: Tensor, dtype: torch.dtype) -> RotaryTables:
        """Rotary tables of a request.

        Args:
            video_positions: (B, 3, T, 2) start and end in time (seconds), height and width (pixels).
            audio_positions: (B, 1, T, 2) start and end in time (seconds).
            dtype: the model's.
        """
        return RotaryTables(
            video=self._stream_rotary(self.config.video, video_positions, dtype),
            audio=self._stream_rotary(self.config.audio, audio_positions, dtype),
        )

    def _stream_rotary(self, stream: StreamConfig, positions: Tensor, dtype: torch.dtype) -> StreamRotary:
        middle = middle_of_cells(positions)  # (B, A, T)
        return StreamRotary(
            own=rotary_table(
                middle,
                width=stream.width,
                heads=stream.heads,
                max_positions=stream.max_positions,
                config=self.config.rotary,
                dtype=dtype,
            ),
            cross=rotary_table(
                middle[:, :1],
                width=self.config.audio.width,
                heads=stream.heads,
                max_positions=(self.config.cross_max_position,),
                config=self.config.rotary,
                dtype=dtype,
            ),
        )

    def modulation(self, video: ModalityInput, audio: ModalityInput) -> Modulation:
        """Modulation of a step, from the sigmas and timesteps of both modalities (their context does not matter)."""
        return Modulation(
            video=self._stream_modulation(
                video,
                other=audio,
                block=self.adaln_single,
                prompt=self.prompt_adaln_single,
                cross_scale_shift=self.av_ca_video_scale_shift_adaln_single,
                cross_gate=self.av_ca_a2v_gate_adaln_single,
            ),
            audio=self._stream_modulation(
                audio,
                other=video,
                block=self.audio_adaln_single,
                prompt=self.audio_prompt_adaln_single,
                cross_scale_shift=self.av_ca_audio_scale_shift_adaln_single,
                cross_gate=self.av_ca_v2a_gate_adaln_single,
            ),
        )

    def _stream_modulation(
        self,
        own: ModalityInput,
        *,
        other: ModalityInput,
        block: AdaLayerNormSingle,
        prompt: AdaLayerNormSingle,
        cross_scale_shift: AdaLayerNormSingle,
        cross_gate: AdaLayerNormSingle,
    ) -> StreamModulation:
        batch, dtype, scale = own.latent.shape[0], own.latent.dtype, self.config.timestep_scale
        block_rows, embedding = block(own.timesteps * scale, batch, dtype)
        prompt_rows, _ = prompt(own.sigma * scale, batch, dtype)
        # The gate of what a stream takes from the other follows the OTHER stream's noise level, in every release.
        cross_level = other.sigma * scale
        cross_own = self.reference.cross_timestep_per_token
        cross_rows, _ = cross_scale_shift(own.timesteps * scale if cross_own else cross_level, batch, dtype)
        gate_row, _ = cross_gate(cross_level * (self.config.cross_gate_timestep_scale / scale), batch, dtype)
        return StreamModulation(
            block=block_rows,
            prompt=prompt_rows,
            cross_scale_shift=cross_rows,
            cross_gate=gate_row,
            embedding=embedding,
        )

    def forward(
        self,
        video: ModalityInput,
        audio: ModalityInput,
        rotary: RotaryTables,
        skips: Skips = NO_SKIPS,
        modulation: Modulation | None = None,
        disable_v2a_cross_attn: bool = False,
        shared: SharedBlocks = NOTHING_SHARED,
    ) -> tuple[Tensor, Tensor]:
        """Denoise one step.

        Args:
            video: video's tokens, noise levels and text.
            audio: audio's.
            rotary: `rotary_tables` of the request.
            skips: branches that this guidance pass leaves out.
            modulation: `modulation` of the step, where the caller has it already.
            disable_v2a_cross_attn: leave V2A out of every block, whatever the pass.
            shared: what the passes of the step have in common.
        Returns: denoised video (B, T, P) and audio (B, T, P), in the latents' dtype.
        Raises: ShapeError if a context is not as wide as its stream.
        """
        self._check_context("video", video, self.config.video)
        self._check_context("audio", audio, self.config.audio)
        if modulation is None:
            modulation = self.modulation(video, audio)
        if disable_v2a_cross_attn:
            skips = replace(skips, v2a=True)
        at_video = StreamConditions(
            context=video.context,
            modulation=modulation.video,
            rotary=rotary.video,
            enabled=video.enabled,
            shared=shared.branches,
        )
        at_audio = StreamConditions(
            context=audio.context,
            modulation=modulation.audio,
            rotary=rotary.audio,
            enabled=audio.enabled,
            shared=shared.branches,
        )
        inputs = PassInputs(latents=(video.latent, audio.latent), video=at_video, audio=at_audio, skips=skips)
        begun = shared.begin(inputs)
        if begun is None:
            # (B, T, P) -> (B, T, C)
            begun = (
                0,
                (
                    shared.branches.project(self.patchify_proj, video.latent),
                    shared.branches.project(self.audio_patchify_proj, audio.latent),
                ),
            )
        start, (video_stream, audio_stream) = begun
        for index, block in enumerate(self.transformer_blocks[start:], start):
            shared.keep(index, video_stream, audio_stream)
            with scope(f"block/{index:02d}") if tapping() else nullcontext():
                video_stream, audio_stream = block(video_stream, audio_stream, at_video, at_audio, skips.at(index))
        shared.keep(len(self.transformer_blocks), video_stream, audio_stream)
        video_velocity = self._velocity(video_stream, modulation.video.embedding, self.scale_shift_table, self.proj_out)
        audio_velocity = self._velocity(
            audio_stream, modulation.audio.embedding, self.audio_scale_shift_table, self.audio_proj_out
        )
        return (
            denoised_of_velocity(video.latent, video_velocity, video.timesteps),
            denoised_of_velocity(audio.latent, audio_velocity, audio.timesteps),
        )

    def _velocity(self, x: Tensor, embedding: Tensor, table: Tensor, projection: nn.Linear) -> Tensor:
        shift, scale = (table[None, None].to(x.dtype) + embedding[:, :, None]).unbind(dim=2)  # each (B, T or 1, C)
        normed = F.layer_norm(x, (x.shape[-1],), eps=self.config.norm_eps)
        velocity: Tensor = projection(modulate(normed, scale, shift))  # (B, T, C) -> (B, T, P)
        return velocity

    def _check_context(self, name: str, modality: ModalityInput, stream: StreamConfig) -> None:
        if modality.context.ndim != 3 or modality.context.shape[-1] != stream.width:
            raise ShapeError(
                f"The {name} context must be (B, S, {stream.width}), as the {name} connector gives it; "
                f"got {tuple(modality.context.shape)}."
            )


def denoised_of_velocity(latent: Tensor, velocity: Tensor, timesteps: Tensor) -> Tensor:
    """x0 = x - sigma v in float32, in the latent's dtype.

    Args:
        latent: (B, T, P) noisy tokens.
        velocity: (B, T, P).
        timesteps: (B, T, 1) or (B, 1, 1) each token's sigma.
    """
    return (latent.float() - velocity.float() * timesteps.float()).to(latent.dtype)
