"""Labels of forms: both ways, and nothing else is one."""

import pytest

from parity.runs.encoding import Colour, Encoding, SoundEncoding, VideoEncoding
from runners.errors import MediaError

FULL_709 = Colour(full_range=True, matrix="bt709")


@pytest.mark.parametrize(
    ("label", "encoding"),
    [
        ("png_wav", Encoding()),
        (
            "h264-yuv420p-crf23_wav",
            Encoding(video=VideoEncoding(codec="h264", pixel_format="yuv420p", crf=23.0, kbit=None)),
        ),
        ("png_mp3-192k", Encoding(sound=SoundEncoding(codec="mp3", kbit=192))),
        (
            "hevc-yuv444p10le-900k-full-bt709_aac-128k",
            Encoding(
                video=VideoEncoding(codec="hevc", pixel_format="yuv444p10le", crf=None, kbit=900, colour=FULL_709),
                sound=SoundEncoding(codec="aac", kbit=128),
            ),
        ),
    ],
)
def test_a_label_says_a_form_and_is_read_back(label: str, encoding: Encoding) -> None:
    assert encoding.label == label
    assert Encoding.of_label(label) == encoding
    assert encoding.lossless == (label == "png_wav")


@pytest.mark.parametrize(
    "label",
    ["", "png", "../x_wav", "h264-yuv420p-crf23_wav/..", "h264-yuv420p-crf23_aac-127k", "png_wav\n", "h264_wav"],
)
def test_nothing_else_is_a_label_for_it_names_a_folder(label: str) -> None:
    with pytest.raises(MediaError, match="is no form of outputs"):
        Encoding.of_label(label)
