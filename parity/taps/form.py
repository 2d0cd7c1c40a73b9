"""The form of every tap: axes, dtype, order of tokens, and what it is before and after.

Sizes follow from the case and the checkpoint's configuration, none from a run. Source: runners.ltx23.{latents,stages},
which follow ltx_core and ltx_pipelines 1.0.0; tests hold the table to runs of native and of the official code.

Axes: B sample, always 1; N token of the prompt; S token of the text window; L Gemma layer; T token of a stream; F
frame; H, W row and column; C channel; D width; M mel bin; A sample of sound.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from parity.taps.name import Place
from runners.case import Case
from runners.ltx23.latents import AUDIO_CHANNELS, AUDIO_MEL_BINS, VIDEO_CHANNELS, audio_frames, video_shape
from runners.ltx23.transformer_config import TransformerConfig
from runners.stages import PIPELINES

TEXT_WINDOW: Final = 1024  # tokens of the padded prompt, and after the connectors of its registers
MEL_PER_LATENT: Final = 4  # mel frames a latent audio frame; the causal decoder drops three of the first four
MEL_BINS: Final = 64
SOUND_CHANNELS: Final = 2
SAMPLES_PER_MEL: Final = 480  # at 48 kHz, with bandwidth extension

VIDEO_ORDER: Final = (
    "frame by frame, in each row by row; tokens of keyframes (not at frame 0) after them, one picture after the other"
)
AUDIO_ORDER: Final = "in time; a token holds its 8 channels one after the other, 16 mel bins each"


@dataclass(frozen=True, kw_only=True)
class TapForm:
    """One row of the table: taps of one kind."""

    names: str  # pattern of the names
    axes: str  # letters of the module's docstring
    dtype: str  # "run" is the run's own: bf16, or fp32 of an oracle
    order: str  # of tokens or values, where there is more than one that fits the shape
    what: str  # before and after what


FORMS: Final = (
    TapForm(
        names="text/{pos,neg}/hidden",
        axes="B N D L",
        dtype="run",
        order="real tokens alone, in the order of the prompt: no padding (`real_tokens` takes it out)",
        what="all of Gemma's hidden states, the embeddings first, before the feature extractor",
    ),
    TapForm(
        names="connector/{pos,neg}/{video,audio}",
        axes="B S D",
        dtype="run",
        order="real tokens first, registers in place of the padding after them",
        what="what the stream's text attention reads, after the connector's last norm",
    ),
    TapForm(
        names="image/{i}/latent",
        axes="B C F H W",
        dtype="run",
        order="one latent frame",
        what="the encoded picture, normalized, before it is put among the tokens",
    ),
    TapForm(
        names="init/{video,audio}",
        axes="B T C",
        dtype="run",
        order=f"video: {VIDEO_ORDER}; audio: {AUDIO_ORDER}",
        what="the state before step 0: noise, and the pictures by their strength",
    ),
    TapForm(
        names="denoise/{step:03d}/{cond,uncond,perturbed,isolated}/block/{b:02d}/{video,audio}/{self_attn,text_attn,av_attn,ff}",
        axes="B T D",
        dtype="run",
        order="as init",
        what="what the branch returns, before its gate multiplies it and before it is added; only where it ran",
    ),
    TapForm(
        names="denoise/{step:03d}/{pass}/block/{b:02d}/{video,audio}/out",
        axes="B T D",
        dtype="run",
        order="as init",
        what="the stream after the block",
    ),
    TapForm(
        names="denoise/{step:03d}/{pass}/x0/{video,audio}",
        axes="B T C",
        dtype="run",
        order="as init",
        what="the denoised prediction of one pass, each token by its own noise level, before guidance",
    ),
    TapForm(
        names="denoise/{step:03d}/guided/{video,audio}",
        axes="B T C",
        dtype="run",
        order="as init",
        what="the passes combined and rescaled, before the picture's tokens are put back",
    ),
    TapForm(
        names="denoise/{step:03d}/latent/{video,audio}",
        axes="B T C",
        dtype="run",
        order="as init",
        what="the state after the sampler's step, the picture's tokens put back",
    ),
    TapForm(
        names="upsample/latent",
        axes="B C F H W",
        dtype="run",
        order="as decoded",
        what="between two stages: the first one's video enlarged, normalized again; then image/{i}/latent, init/* and "
        "denoise/* of the second stage follow, whose names begin with stage2/",
    ),
    TapForm(
        names="decode/frames",
        axes="F H W C",
        dtype="uint8",
        order="RGB",
        what="the video as it is handed back, full range, tiles blended",
    ),
    TapForm(
        names="decode/mel",
        axes="B C F M",
        dtype="run",
        order="left, right; low bins first",
        what="the audio decoder's log-mel spectrogram, before the vocoder",
    ),
    TapForm(
        names="decode/waveform",
        axes="C A",
        dtype="float32",
        order="left, right",
        what="the sound as it is handed back, at 48 kHz",
    ),
)


def shape_of(place: Place, case: Case, config: Mapping[str, Any]) -> tuple[int | None, ...]:
    """The shape that a tap of a case has; None stands for an axis that the prompt or Gemma decides.

    Args:
        place: of the tap.
        case: the request.
        config: the checkpoint's configuration.
    Raises: ConfigError for a configuration that is not LTX-2.3's.
    """
    request, part = case.request, place.part
    plan = case.plans[-1 if place.scope or part == "upsample" else 0]
    cells = video_shape(request.num_frames, plan.height, plan.width)
    sound = audio_frames(request.num_frames, request.frame_rate)
    mel = MEL_PER_LATENT * (sound - 1) + 1
    if part == "hidden":
        return 1, None, None, None
    if part == "image":
        return 1, VIDEO_CHANNELS, 1, cells.height, cells.width
    if part == "upsample":
        return 1, VIDEO_CHANNELS, cells.frames, cells.height, cells.width
    if part == "frames":
        return request.num_frames, request.height, request.width, 3
    if part == "mel":
        return 1, SOUND_CHANNELS, mel, MEL_BINS
    if part == "waveform":
        return SOUND_CHANNELS, SAMPLES_PER_MEL * mel
    always = PIPELINES[case.pipeline].only_keyframes
    keyframes = sum(always or image.frame_idx != 0 for image in request.images)
    tokens = {"video": cells.tokens + keyframes * cells.height * cells.width, "audio": sound}[place.stream or ""]
    if part in ("init", "x0", "guided", "latent"):
        return 1, tokens, {"video": VIDEO_CHANNELS, "audio": AUDIO_CHANNELS * AUDIO_MEL_BINS}[place.stream or ""]
    transformer = TransformerConfig.from_dict(config)
    width = {"video": transformer.video.width, "audio": transformer.audio.width}[place.stream or ""]
    return 1, TEXT_WINDOW if part == "connector" else tokens, width
