"""The forms in which imported outputs come: lossless, or through a codec, which limits are then measured through, too.

A form has a label, such as `h264-yuv420p-crf23_wav` or `png_aac-128k`: what the file tells of its encoder, in words of
a closed set. The label names a folder of limits and nothing else is joined into that path.
"""

import re
from dataclasses import dataclass
from typing import Final, Literal, Self

from runners.errors import MediaError

Matrix = Literal["bt601", "bt709"]
ENCODERS: Final = {"h264": "libx264", "hevc": "libx265"}  # by the name of what decodes them
SOUND_ENCODERS: Final = {"aac": "aac", "mp3": "libmp3lame", "opus": "libopus"}
PIXEL_FORMATS: Final = ("yuv420p", "yuv422p", "yuv444p", "yuv420p10le", "yuv422p10le", "yuv444p10le")
SOUND_KBIT: Final = (32, 48, 64, 96, 128, 160, 192, 256, 320)  # what a file says is rounded to one of these
LOSSLESS_VIDEO: Final = "png"
LOSSLESS_SOUND: Final = "wav"
LABEL: Final = re.compile(
    rf"(?:{LOSSLESS_VIDEO}|(?P<codec>{'|'.join(ENCODERS)})-(?P<format>{'|'.join(PIXEL_FORMATS)})"
    r"-(?:crf(?P<crf>[0-9]{1,2}(?:\.[0-9]{1,2})?)|(?P<kbit>[1-9][0-9]{0,6})k)"
    r"(?P<full>-full)?(?P<bt709>-bt709)?)"
    rf"_(?:{LOSSLESS_SOUND}|(?P<sound>{'|'.join(SOUND_ENCODERS)})-(?P<sound_kbit>{'|'.join(map(str, SOUND_KBIT))})k)"
)


@dataclass(frozen=True, kw_only=True)
class Colour:
    """The meaning of a picture's planes. A file that says nothing means the default: it is what swscale writes."""

    full_range: bool = False  # black at 0 and white at 255, not at 16 and 235
    matrix: Matrix = "bt601"

    @property
    def words(self) -> str:
        """For people: "limited range, BT.601"."""
        return f"{'full' if self.full_range else 'limited'} range, {self.matrix.upper().replace('BT', 'BT.')}"


@dataclass(frozen=True, kw_only=True)
class VideoEncoding:
    """An encoder of frames, as far as a file tells: its quality is a rate factor or, where none is told, a bit rate."""

    codec: str  # of ENCODERS
    pixel_format: str  # of PIXEL_FORMATS
    crf: float | None
    kbit: int | None  # per second
    colour: Colour = Colour()

    @property
    def label(self) -> str:
        """Its half of a form's label."""
        quality = f"{self.kbit}k" if self.crf is None else f"crf{self.crf:g}"
        full, bt709 = "-full" * self.colour.full_range, "-bt709" * (self.colour.matrix == "bt709")
        return f"{self.codec}-{self.pixel_format}-{quality}{full}{bt709}"


@dataclass(frozen=True, kw_only=True)
class SoundEncoding:
    """An encoder of sound, as far as a file tells."""

    codec: str  # of SOUND_ENCODERS
    kbit: int  # per second, of SOUND_KBIT

    @property
    def label(self) -> str:
        """Its half of a form's label."""
        return f"{self.codec}-{self.kbit}k"


@dataclass(frozen=True, kw_only=True)
class Encoding:
    """The form of frames and sound; None is lossless."""

    video: VideoEncoding | None = None
    sound: SoundEncoding | None = None

    @property
    def label(self) -> str:
        """The form in one word, which `of_label` reads back."""
        video = LOSSLESS_VIDEO if self.video is None else self.video.label
        return f"{video}_{LOSSLESS_SOUND if self.sound is None else self.sound.label}"

    @property
    def lossless(self) -> bool:
        """True if nothing is lost."""
        return self.video is None and self.sound is None

    @classmethod
    def of_label(cls, label: str) -> Self:
        """The form of a label. Raises: MediaError for a text that is none."""
        found = LABEL.fullmatch(label)
        if found is None:
            raise MediaError(
                f"{label[:100]!r} is no form of outputs; one is {LOSSLESS_VIDEO} or e.g. h264-yuv420p-crf23, then `_`, "
                f"then {LOSSLESS_SOUND} or e.g. aac-128k."
            )
        part = found.groupdict()
        video = sound = None
        if part["codec"] is not None:
            video = VideoEncoding(
                codec=part["codec"],
                pixel_format=part["format"],
                crf=None if part["crf"] is None else float(part["crf"]),
                kbit=None if part["kbit"] is None else int(part["kbit"]),
                colour=Colour(full_range=bool(part["full"]), matrix="bt709" if part["bt709"] else "bt601"),
            )
        if part["sound"] is not None:
            sound = SoundEncoding(codec=part["sound"], kbit=int(part["sound_kbit"]))
        return cls(video=video, sound=sound)
