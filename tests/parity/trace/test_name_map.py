"""Name maps: fields stand for what a case has, and a map that promises what is not there is refused."""

from pathlib import Path

import pytest

from parity.trace.name_map import NameMap, read_name_map
from runners.errors import RunError

TAPS = (
    "connector/pos/video",
    "denoise/000/cond/block/00/video/ff",
    "denoise/000/cond/block/11/video/ff",
    "denoise/012/uncond/block/00/video/ff",
    "denoise/012/guided/audio",
    "decode/mel",
)
BLOCKS = "denoise/{step}/{pass}/block/{block}/video/ff"


def test_fields_stand_for_steps_passes_and_blocks() -> None:
    names = NameMap(entries=(("decode/mel", "vocoder.in"), (BLOCKS, "s{step}.{pass}.b{block:03d}.ff")))
    assert names.expand(TAPS) == [
        ("denoise/000/cond/block/00/video/ff", "s0.cond.b000.ff"),
        ("denoise/000/cond/block/11/video/ff", "s0.cond.b011.ff"),
        ("denoise/012/uncond/block/00/video/ff", "s12.uncond.b000.ff"),
        ("decode/mel", "vocoder.in"),
    ]
    assert names.patterns == ("decode/mel", "denoise/*/*/block/*/video/ff")


@pytest.mark.parametrize(
    ("entries", "said"),
    [
        ((("decode/mels", "mel"),), "'decode/mels' is no tap of this case"),
        (((BLOCKS, "{step}.{block}.{pass}"), ("denoise/000/cond/block/{block}/video/ff", "x{block}")), "twice"),
        (((BLOCKS, "{block}.ff"),), "'0.ff' to more than one tap"),
    ],
)
def test_a_map_that_cannot_be_meant_is_refused(entries: tuple[tuple[str, str], ...], said: str) -> None:
    with pytest.raises(RunError, match=said):
        NameMap(entries=entries).expand(TAPS)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "its form"),
        ("[taps]\n", "its form"),
        ('[taps]\n"a" = 3\n', "wants one name"),
        ('[taps]\n"a" = "b"\n[more]\n', "its form"),
        ('[taps]\n"decode/{thing}" = "b"\n', "wants fields of step"),
        ('[taps]\n"decode/mel" = "b{step}"\n', "only those of the key"),
        ('[taps]\n"{step}/{step}" = "b"\n', "each once"),
        ("[taps\n", "not valid TOML"),
        ("[taps]\n" + ".".join("a" * 20_000) + " = 1\n", "more than 8 parts"),
        (f'[taps]\n"a" = "{"b" * 301}"\n', "at most 300"),
    ],
)
def test_a_file_of_another_form_is_one_sentence(text: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / "map.toml"
    path.write_text(text)
    with pytest.raises(RunError, match=said):
        read_name_map(path)


def test_a_map_is_read(tmp_path: Path) -> None:
    path = tmp_path / "map.toml"
    path.write_text(f'[taps]\n"{BLOCKS}" = "b{{block}}"\n"decode/mel" = "mel"\n')
    assert read_name_map(path) == NameMap(entries=((BLOCKS, "b{block}"), ("decode/mel", "mel")))
