"""The branches of a transformer block and the modules that compute them; every implementation keeps these names.

SGLang, ComfyUI and checkpoints have them, too.
"""

from typing import Final

BRANCHES: Final = {
    ("video", "self_attn"): "attn1",
    ("video", "text_attn"): "attn2",
    ("video", "av_attn"): "audio_to_video_attn",
    ("video", "ff"): "ff",
    ("audio", "self_attn"): "audio_attn1",
    ("audio", "text_attn"): "audio_attn2",
    ("audio", "av_attn"): "video_to_audio_attn",
    ("audio", "ff"): "audio_ff",
}  # stream and part, as in tap names, and the attribute of a block
TAPS: Final = {module: "/".join(branch) for branch, module in BRANCHES.items()}  # tap below block/{b:02d}/ of a module
