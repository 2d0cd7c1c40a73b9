"""The place of a tap, read from its name: step, guidance pass, block, stream and part, and how to say that to a person.

Names are the ones in docs/taps.md. A name that follows none of them is no place, and its reader is told so.
"""

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from runners.errors import RunError
from runners.stages import SECOND

STREAMS: Final = ("video", "audio")
BLOCK_PARTS: Final = ("self_attn", "text_attn", "av_attn", "ff", "out")  # in the order of the block

PASS_WORDS: Final = {
    "cond": "conditional pass",
    "uncond": "negative-prompt pass",
    "perturbed": "perturbed pass",
    "isolated": "isolated pass",
}
PART_WORDS: Final = {
    "self_attn": "self-attention",
    "text_attn": "text attention",
    "ff": "feed-forward",
    "out": "block output",
    "x0": "denoised prediction",
    "guided": "guided prediction",
    "latent": "latent after the step",
}
SIGN_WORDS: Final = {"pos": "prompt", "neg": "negative prompt"}
CROSS_WORDS: Final = {"video": "audio-to-video attention", "audio": "video-to-audio attention"}  # by asking stream

_NAME: Final = re.compile(
    r"(?P<kind>text|connector|decode)/(?:"
    r"(?<=text/)(?P<text_sign>pos|neg)/(?P<hidden>hidden)"
    r"|(?<=connector/)(?P<sign>pos|neg)/(?P<connected>video|audio)"
    r"|(?<=decode/)(?P<decoded>frames|mel|waveform))"
    r"|(?P<upsample>upsample)/latent"
    rf"|(?:(?P<scope>{SECOND})/)?(?:"
    r"image/(?P<image>\d+)/latent"
    r"|init/(?P<initial>video|audio)"
    r"|denoise/(?P<step>\d{3,})/(?:"
    r"(?P<step_part>guided|latent)/(?P<step_stream>video|audio)"
    r"|(?P<pass>cond|uncond|perturbed|isolated)/(?:"
    r"x0/(?P<x0_stream>video|audio)"
    r"|block/(?P<block>\d{2,})/(?P<block_stream>video|audio)/(?P<part>self_attn|text_attn|av_attn|ff|out))))"
)


@dataclass(frozen=True, kw_only=True)
class Place:
    """A tap's place. What does not apply is None: an initial latent has no step, a guided prediction no pass.

    `part` is one of BLOCK_PARTS, "x0", "guided", "latent", or for what lies outside denoising "hidden", "connector",
    "image", "init", "upsample", "frames", "mel", "waveform". `item` is the prompt's sign or the picture's number.
    """

    part: str
    stream: str | None = None
    step: int | None = None
    guidance_pass: str | None = None
    block: int | None = None
    item: str | None = None
    scope: str = ""  # of a second stage; the first has none

    def words(self) -> str:
        """The place for a person: "step 0, conditional pass, block 0, video, audio-to-video attention"."""
        return ", ".join((*self._when(), self.what()))

    def spot(self) -> str:
        """The same in a heading: "step 0 · conditional pass · block 0 · video · self-attention"."""
        return self.words().replace(", ", " · ")

    def what(self) -> str:
        """The place within its step and pass: "video, self-attention"."""
        if self.part == "hidden":
            return f"Gemma's hidden states of the {SIGN_WORDS[self.item or '']}"
        if self.part == "connector":
            return f"{self.stream} text connector, {SIGN_WORDS[self.item or '']}"
        if self.part == "image":
            return f"latent of picture {self.item}"
        if self.part == "upsample":
            return "video latent enlarged between the stages"
        if self.part == "init":
            return f"initial {self.stream} latent"
        if self.part in ("frames", "mel", "waveform"):
            return {"frames": "decoded frames", "mel": "decoded mel spectrogram", "waveform": "waveform"}[self.part]
        part = CROSS_WORDS[self.stream or ""] if self.part == "av_attn" else PART_WORDS[self.part]
        return f"{self.stream}, {part}"

    def _when(self) -> tuple[str, ...]:
        words = ["second stage"] if self.scope else []
        if self.step is not None:
            words.append(f"step {self.step}")
        if self.guidance_pass is not None:
            words.append(PASS_WORDS[self.guidance_pass])
        if self.block is not None:
            words.append(f"block {self.block}")
        return tuple(words)


@lru_cache(maxsize=1 << 17)
def place_of(tap: str) -> Place:
    """Read a tap's name. Raises: RunError if it is none of the known names."""
    found = _NAME.fullmatch(tap)
    if found is None:
        raise RunError(f"{tap[:200]!r} is no tap name; docs/taps.md lists them.")
    at = found.groupdict()
    scope = at["scope"] or ""
    if at["part"]:
        return Place(
            part=at["part"],
            stream=at["block_stream"],
            step=int(at["step"]),
            guidance_pass=at["pass"],
            block=int(at["block"]),
            scope=scope,
        )
    if at["x0_stream"]:
        return Place(part="x0", stream=at["x0_stream"], step=int(at["step"]), guidance_pass=at["pass"], scope=scope)
    if at["step_part"]:
        return Place(part=at["step_part"], stream=at["step_stream"], step=int(at["step"]), scope=scope)
    if at["hidden"]:
        return Place(part="hidden", item=at["text_sign"])
    if at["connected"]:
        return Place(part="connector", stream=at["connected"], item=at["sign"])
    if at["image"]:
        return Place(part="image", item=at["image"], scope=scope)
    if at["initial"]:
        return Place(part="init", stream=at["initial"], scope=scope)
    if at["upsample"]:
        return Place(part="upsample", stream="video")
    return Place(part=at["decoded"], stream="video" if at["decoded"] == "frames" else "audio")


def is_tap(name: str) -> bool:
    """True if a name follows docs/taps.md."""
    return _NAME.fullmatch(name) is not None


def group_of(tap: str) -> str:
    """A tap's name with `*` for its step and its block: the key under which like taps share a floor."""
    return re.sub(r"/block/\d+", "/block/*", re.sub(r"(^|/)denoise/\d+", r"\1denoise/*", tap))
