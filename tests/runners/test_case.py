"""Case files: what is read, and one clear sentence for everything that is not a runnable request."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from runners.case import MAX_CASE_BYTES, Case, case_document, load_case, parse_case
from runners.errors import CaseError

TEXT = """
id = "demo"
pipeline = "one_stage"
[request]
prompt = "p"
seed = 3
height = 96
width = 160
num_frames = 17
frame_rate = 24
num_inference_steps = 4
[[request.images]]
path = "a.png"
frame_idx = 8
[guidance.video]
cfg_scale = 3
stg_blocks = [1, 2]
[guidance.audio]
"""


def test_a_case_is_read_with_its_defaults(tmp_path: Path) -> None:
    case = parse_case(TEXT, tmp_path)
    assert case.reference == "1.0.0"
    assert case.request.frame_rate == 24.0
    assert case.request.negative_prompt is None
    image = case.request.images[0]
    assert (image.frame_idx, image.strength, image.crf) == (8, 1.0, 33)
    assert case.guidance.video.stg_blocks == (1, 2)
    assert case.guidance.audio.cfg_scale == 1.0 and case.guidance.audio.stg_scale == 0.0
    assert case.switches.disable_autocast and not case.switches.skip_v2a_cross_attn_for_video_gt


def test_the_document_of_a_case_makes_the_same_case_again(tmp_path: Path) -> None:
    case = parse_case(TEXT, tmp_path)
    document = case_document(case)
    assert "folder" not in document
    import msgspec

    assert msgspec.convert({**document, "folder": str(tmp_path)}, Case) == case


def test_overrides_reach_any_depth_and_are_checked_like_the_file(tmp_path: Path) -> None:
    case = parse_case(TEXT, tmp_path, {"request.seed": 9, "switches.disable_autocast": False, "id": "other"})
    assert (case.request.seed, case.switches.disable_autocast, case.id) == (9, False, "other")
    for key in ("request.sede", "nonsense", "guidance.video.cfg", "request.seed.deeper", "request.", "folder"):
        with pytest.raises(CaseError, match=key.split(".")[-1] or "does not name a key"):
            parse_case(TEXT, tmp_path, {key: 1})


@pytest.mark.parametrize(
    ("line", "replacement", "sentence"),
    [
        ("height = 96", "height = 100", r"request.height is 100; it must be a multiple of 32.*Take 96 or 128"),
        ("width = 160", "width = 0", r"request.width is 0.*multiple of 32.*Take 32 or 64"),
        ("width = 160", "width = -32", r"request.width is -32"),
        ("width = 160", "width = 99968", r"request.width is 99968.*up to 8192 pixels. Take 8160 or 8192"),
        ("num_frames = 17", "num_frames = 16", r"num_frames is 16; it must be 8k \+ 1.*Take 9 or 17"),
        ("num_frames = 17", "num_frames = 0", r"num_frames is 0.*Take 1 or 9"),
        ("num_frames = 17", "num_frames = -7", r"num_frames is -7"),
        ("num_frames = 17", "num_frames = 1000000001", r"is 1000000001; .* at most 4097. Take 4089 or 4097"),
        ("frame_rate = 24", "frame_rate = 0", r"frame_rate is 0.0; wanted 0 < rate"),
        ("frame_rate = 24", "frame_rate = nan", r"frame_rate is nan"),
        ("frame_rate = 24", "frame_rate = 1e999", r"frame_rate is inf"),
        ("frame_rate = 24", "frame_rate = 1e-320", r"17 frames at 1e-320 a second last inf s; at most 3600 s"),
        ("frame_rate = 24", "frame_rate = 0.0047", r"17 frames at 0.0047 a second last 3.62e\+03 s; at most 3600 s"),
        ("frame_rate = 24", "frame_rate = 900", r"17 frames at 900.0 a second last 0.0189 s, too short for sound"),
        ("num_inference_steps = 4", "num_inference_steps = 0", r"num_inference_steps is 0; wanted 1 to 1000"),
        ("seed = 3", "seed = -1", r"request.seed is -1"),
        ("seed = 3", "seed = 9223372036854775808", r"request.seed is 9223372036854775808"),
        ("seed = 3", "seed = 3.5", r"Expected `int`.*request.seed"),
        ("seed = 3", 'seed = "3"', r"Expected `int`, got `str`.*request.seed"),
        ("seed = 3", "", r"missing required field `seed`"),
        ("seed = 3", "seed = 3\nsteps = 3", r"unknown field `steps`"),
        ('prompt = "p"', "prompt = 5", r"Expected `str`.*request.prompt"),
        ("frame_idx = 8", "frame_idx = 17", r"request.images\[0\].frame_idx is 17; wanted 0 to 16"),
        ("frame_idx = 8", "frame_idx = -1", r"frame_idx is -1"),
        ("frame_idx = 8", "strength = 1.5", r"strength is 1.5; wanted 0 to 1"),
        ("frame_idx = 8", "strength = nan", r"strength is nan"),
        ("frame_idx = 8", "crf = 52", r"crf is 52"),
        ('path = "a.png"', "", r"missing required field `path`"),
        ("cfg_scale = 3", "cfg_scale = inf", r"guidance.video.cfg_scale is inf; wanted a finite number"),
        ("cfg_scale = 3", "skip_step = -1", r"guidance.video.skip_step is -1"),
        ("stg_blocks = [1, 2]", "stg_blocks = [-1]", r"guidance.video.stg_blocks is \[-1\]"),
        ("stg_blocks = [1, 2]", "stg_blocks = 1", r"Expected `array`.*stg_blocks"),
        ("[guidance.audio]", "", r"missing required field `audio`"),
        ("[guidance.audio]", "[guidance.audio]\n[guidance.sound]", r"unknown field `sound`"),
        ("[guidance.audio]", "[guidance.audio]\n[switches]\nautocast = true", r"unknown field `autocast`"),
        ('id = "demo"', 'id = "../demo"', r"A case id is letters.*'../demo'"),
        ('id = "demo"', 'id = ""', r"A case id is letters"),
        ('id = "demo"', 'id = "demo\\n"', r"A case id is letters"),
        ('pipeline = "one_stage"', 'pipeline = "two_stage"', r"two_stage"),
        ('id = "demo"', 'id = "demo"\nfolder = "/"', r"unknown key 'folder'"),
        ('id = "demo"', 'id = "demo', r"not valid TOML"),
        ("seed = 3", "seed = " + "9" * 5000, r"not valid TOML"),
        ("seed = 3", "seed = " + "[" * 50000, r"not valid TOML"),
    ],
)
def test_what_is_no_runnable_request_gets_one_sentence(
    line: str, replacement: str, sentence: str, tmp_path: Path
) -> None:
    assert line in TEXT
    with pytest.raises(CaseError, match=sentence):
        parse_case(TEXT.replace(line, replacement), tmp_path)


def test_a_case_file_is_read_from_its_folder(tmp_path: Path) -> None:
    path = tmp_path / "demo.toml"
    path.write_text(TEXT, encoding="utf-8")
    (tmp_path / "a.png").write_bytes(b"x")
    case = load_case(path)
    assert case.image_path(case.request.images[0]) == (tmp_path / "a.png").resolve()


def _directory(path: Path) -> None:
    path.mkdir()


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda path: None, "no file that can be read"),
        (_directory, "is not a regular file"),
        (lambda path: path.write_bytes(b"\xff\xfe\x00"), "cannot be read as UTF-8 text"),
        (lambda path: path.write_bytes(b"#" * (MAX_CASE_BYTES + 1)), "has more than 131072 bytes"),
    ],
)
def test_files_that_are_no_case_files_are_refused(make: Callable[[Path], Any], sentence: str, tmp_path: Path) -> None:
    path = tmp_path / "demo.toml"
    make(path)
    with pytest.raises(CaseError, match=sentence):
        load_case(path)


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("/etc/passwd", "leaves the case's folder"),
        ("../secret.png", "leaves the case's folder"),
        ("sub/../../secret.png", "leaves the case's folder"),
        ("link.png", "leaves the case's folder"),
        ("linked/secret.png", "leaves the case's folder"),
        ("missing.png", "is not a file in"),
        ("sub", "is not a file in"),
        ("", "is not a file in"),
        ("a\x00b", "cannot be used"),
        ("n" * 5000, "cannot be used"),
        ("loop.png", "cannot be used"),
    ],
)
def test_a_picture_must_lie_in_the_folder_of_its_case(name: str, sentence: str, tmp_path: Path) -> None:
    (tmp_path / "secret.png").write_bytes(b"x")
    folder = tmp_path / "case"
    (folder / "sub").mkdir(parents=True)
    (folder / "link.png").symlink_to(tmp_path / "secret.png")
    (folder / "linked").symlink_to(tmp_path)
    (folder / "loop.png").symlink_to("loop.png")
    case = parse_case(TEXT, folder, {"request.images": [{"path": name}]})
    with pytest.raises(CaseError, match=sentence):
        case.image_path(case.request.images[0])


def test_a_case_document_is_what_json_gives_back(tmp_path: Path) -> None:
    document = case_document(parse_case(TEXT, tmp_path))
    assert document == json.loads(json.dumps(document))
    assert isinstance(document["request"]["images"], list)


@pytest.mark.parametrize("reference", ["9.9.9", "", ".", "..", "../../x", "/some/folder", "1.0.0/..", "CUSTOM", "1.0"])
def test_a_case_follows_a_known_release_or_custom(reference: str, tmp_path: Path) -> None:
    with pytest.raises(CaseError, match=r"no release that is known here; wanted one of 1\.0\.0, .*, custom"):
        parse_case(TEXT, tmp_path, {"reference": reference})
    for known in ("1.1.2", "custom"):
        assert parse_case(TEXT, tmp_path, {"reference": known}).reference == known
