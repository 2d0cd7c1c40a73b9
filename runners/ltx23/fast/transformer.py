"""The transformer of the fast tier: the guidance passes of a step in one go, a lane for each that differs.

Axes: L lane, T token, P channel of a latent token, C channel of a stream, U distinct noise level, K block, R row.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from runners.ltx23.block import (
    CROSS_SCALE_SHIFT_ROWS,
    SELF_ATTENTION_ROWS,
    AudioVideoBlock,
    StreamModulation,
    StreamRotary,
)
from runners.ltx23.fast.block import BlockLanes, FastBlock, LaneStream, StreamStep
from runners.ltx23.fast.fp8_choice import NOTHING_IN_FP8, Fp8Choice
from runners.ltx23.fast.fused import Prepare, Rows, TokenRotary, modulate, norm_modulate
from runners.ltx23.fast.lanes import first_lanes, lanes_of, seeing, skip_alike, split_lanes
from runners.ltx23.fast.levels import TokenLevels
from runners.ltx23.fast.products import maker
from runners.ltx23.fast.side_stream import SideStream
from runners.ltx23.passes import GuidancePass
from runners.ltx23.transformer import RotaryTables, Transformer, denoised_of_velocity

Pair = tuple[Tensor, Tensor]  # video, audio


@dataclass(frozen=True, kw_only=True)
class StreamInput:
    """One stream's part of a step."""

    latent: Tensor  # (1, T, P)
    timesteps: Tensor  # (1, T, 1)
    levels: TokenLevels
    modulation: StreamModulation  # of the distinct levels, (1, U, ...)
    prompts: tuple[Tensor, ...]  # each (1, S, C)


class FastTransformer:
    """A loaded transformer with its products joined."""

    def __init__(self, transformer: Transformer, choice: Fp8Choice = NOTHING_IN_FP8, *, keep: bool = False) -> None:
        """Join the layers' weights, in place.

        Args:
            transformer: loaded, on its device.
            choice: the products to compute in fp8.
            keep: let the transformer keep the weights of those, so that it stays usable.
        """
        self.blocks = [
            FastBlock(block, maker(choice.of_block(index), keep=keep))
            for index, block in enumerate(transformer.transformer_blocks)
            if isinstance(block, AudioVideoBlock)
        ]
        self._video = _StreamLayers(transformer, "", "video")
        self._audio = _StreamLayers(transformer, "audio_", "audio")
        self._side = SideStream(self._video.device)
        self._laid_out: tuple[RotaryTables, _LaidOut, _LaidOut] | None = None

    def predict(
        self,
        passes: Sequence[GuidancePass],
        video: StreamInput,
        audio: StreamInput,
        rotary: RotaryTables,
        *,
        disable_v2a_cross_attn: bool,
    ) -> dict[str, Pair]:
        """x0 of both modalities, (1, T, P) each, by the name of the pass.

        Args:
            passes: of one step, enabling the same modalities.
            video: video's tokens, noise levels and texts.
            audio: audio's.
            rotary: of the request.
            disable_v2a_cross_attn: leave V2A out of every block.
        Raises: ConfigError for a pass that leaves out one direction of the attention between the streams alone.
        """
        if self._laid_out is None or self._laid_out[0] is not rotary:
            self._laid_out = rotary, _LaidOut.of(rotary.video), _LaidOut.of(rotary.audio)
        _, video_rotary, audio_rotary = self._laid_out
        first = passes[0]
        at_video = self._video.step(video, video_rotary, enabled=first.video_enabled, looks=True)
        at_audio = self._audio.step(audio, audio_rotary, enabled=first.audio_enabled, looks=not disable_v2a_cross_attn)
        lanes = first_lanes(passes)
        streams = self._video.begin(video, at_video), self._audio.begin(audio, at_audio)
        for index, block in enumerate(self.blocks):
            lanes, rows = split_lanes(lanes, index)
            if index == 0 and skip_alike(lanes):
                rows = None  # one lane stands for all until they read different texts
            elif index == 0:
                rows = (0,) * len(lanes)
            if rows is not None:
                for stream in streams:
                    stream.x, stream.prepared = lanes_of(stream.x, rows), lanes_of(stream.prepared, rows)
            at = BlockLanes(block=index, lanes=lanes, seeing=seeing(lanes))
            block.forward(*streams, at_video, at_audio, at, self._side)
        x0 = self._video.finish(streams[0].x, video), self._audio.finish(streams[1].x, audio)
        row = {one.name: row for row, lane in enumerate(lanes) for one in lane.passes}
        return {one.name: (x0[0][row[one.name], None], x0[1][row[one.name], None]) for one in passes}


@dataclass(frozen=True)
class _LaidOut:
    own: TokenRotary
    cross: TokenRotary

    @classmethod
    def of(cls, rotary: StreamRotary) -> "_LaidOut":
        return cls(TokenRotary.of(rotary.own), TokenRotary.of(rotary.cross))


class _StreamLayers:
    """A stream's layers outside of its blocks, and the tables of all blocks together."""

    def __init__(self, model: Transformer, prefix: str, name: str) -> None:
        def layer(layer_name: str) -> nn.Linear:
            found = model.get_submodule(prefix + layer_name)
            assert isinstance(found, nn.Linear)
            return found

        self._eps = model.config.norm_eps
        self._project_in, self._project_out = layer("patchify_proj"), layer("proj_out")
        self.device = self._project_in.weight.device
        self._table = model.get_parameter(f"{prefix}scale_shift_table").float()  # (2, C)
        blocks = model.transformer_blocks
        self._own = _stacked(blocks, f"{prefix}scale_shift_table")  # (K, 9, 1, C)
        self._text = _stacked(blocks, f"{prefix}prompt_scale_shift_table")  # (K, 2, 1, C)
        self._cross = _stacked(blocks, f"scale_shift_table_a2v_ca_{name}")  # (K, 5, 1, C)

    def step(self, given: StreamInput, rotary: _LaidOut, *, enabled: bool, looks: bool) -> StreamStep:
        """Everything that the blocks need to know of the stream in a step."""
        modulation, row = given.modulation, given.levels.row
        zeros = torch.zeros_like(row)
        cross = self._cross[:, :CROSS_SCALE_SHIFT_ROWS] + _by_row(modulation.cross_scale_shift, CROSS_SCALE_SHIFT_ROWS)
        text = torch.cat(given.prompts)
        return StreamStep(
            row=row,
            cross_row=row if cross.shape[2] > 1 else zeros,
            only_row=zeros,
            own=self._own + _by_row(modulation.block, self._own.shape[1]),
            cross=cross,
            cross_gate=self._cross[:, CROSS_SCALE_SHIFT_ROWS] + modulation.cross_gate[0].float(),
            text=text,
            text_row=row.new_zeros(text.shape[1]),
            text_modulation=self._text + _by_row(modulation.prompt, self._text.shape[1]),
            rotary=rotary.own,
            cross_rotary=rotary.cross,
            enabled=enabled,
            looks=looks,
        )

    def begin(self, given: StreamInput, at: StreamStep) -> LaneStream:
        """The stream before the first block, the same in every lane: one."""
        x = self._project_in(given.latent)
        first = Prepare(rows=at.rows(0, SELF_ATTENTION_ROWS), row=at.row, out=torch.empty_like(x))
        prepared = norm_modulate(x, first, self._eps)
        return LaneStream(x=x.float(), prepared=prepared)

    def finish(self, x: Tensor, given: StreamInput) -> Tensor:
        """(L, T, C) after the last block to x0, (L, T, P)."""
        shift, scale = (self._table[:, None] + given.modulation.embedding.float()).unbind()  # each (U, C)
        normed = F.layer_norm(x, x.shape[-1:], eps=self._eps)
        out = torch.empty_like(x, dtype=given.latent.dtype)
        last = Prepare(rows=Rows(scale, shift), row=given.levels.row, out=out)
        velocity: Tensor = self._project_out(modulate(normed, last))
        return denoised_of_velocity(given.latent, velocity, given.timesteps)


def _stacked(blocks: Iterable[nn.Module], name: str) -> Tensor:
    return torch.stack([block.get_parameter(name).float() for block in blocks]).unsqueeze(2)


def _by_row(modulation: Tensor, rows: int) -> Tensor:
    """(1, U, R C) modulation as (R, U, C) fp32, contiguous."""
    return rearrange(modulation[0].float(), "u (r c) -> r u c", r=rows).contiguous()
