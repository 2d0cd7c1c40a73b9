"""The branches of a transformer block by the names of their modules in SGLang, ComfyUI and checkpoints."""

from typing import Final

BRANCHES: Final = {
    "attn1": "video/self_attn",
    "attn2": "video/text_attn",
    "audio_to_video_attn": "video/av_attn",
    "ff": "video/ff",
    "audio_attn1": "audio/self_attn",
    "audio_attn2": "audio/text_attn",
    "video_to_audio_attn": "audio/av_attn",
    "audio_ff": "audio/ff",
}  # module of a block to tap below block/{b:02d}/
