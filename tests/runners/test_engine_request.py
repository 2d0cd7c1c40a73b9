"""Requests as engines record them: every committed case survives the way there and back, and strangers' are checked."""

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from runners.case import MAX_CASE_BYTES, Case, case_text, load_case, parse_case
from runners.engine_request import case_of_request, request_of
from runners.errors import CaseError, ConfigError
from runners.ltx23.sampling import DEFAULT_NEGATIVE_PROMPT, default_negative_prompt
from runners.releases import RELEASES

GOLDEN = Path(__file__).parent.parent.parent / "golden"
EVERY = sorted(GOLDEN.glob("*/case.toml"))
COMMITTED = [path for path in EVERY if load_case(path).pipeline == "one_stage" and not load_case(path).loras]
MakeCase = Callable[..., Case]

RECORDED: dict[str, Any] = {
    "prompt": "a lake",
    "negative_prompt": "blurry",
    "seed": 3,
    "height": 64,
    "width": 96,
    "num_frames": 9,
    "frame_rate": 24,
    "num_inference_steps": 2,
    "images": [{"path": "sub/a.png", "frame_idx": 8, "strength": 0.5, "crf": 20}],
    "extra": {
        "ltx2_stage1_guider_params": {
            "video_cfg_scale": 3,
            "video_stg_scale": 1.0,
            "video_rescale_scale": 0.7,
            "video_modality_scale": 2.0,
            "video_skip_step": 1,
            "video_stg_blocks": [1, 2],
            "audio_cfg_scale": 7.0,
            "audio_stg_scale": 0.5,
            "audio_rescale_scale": 0.25,
            "audio_modality_scale": 4.0,
            "audio_skip_step": 2,
            "audio_stg_blocks": [],
        }
    },
}


def changed(change: Callable[[dict[str, Any]], object]) -> dict[str, Any]:
    request = copy.deepcopy(RECORDED)
    change(request)
    return request


def read(request: Any, folder: Path, name: str = "lake.json") -> Case:
    (folder / name).write_text(request if isinstance(request, str) else json.dumps(request), encoding="utf-8")
    return case_of_request(folder / name)


def test_there_are_committed_cases() -> None:
    assert len(COMMITTED) >= 12
    skipped = {load_case(path).switches.skip_v2a_cross_attn_for_video_gt for path in COMMITTED}
    assert skipped == {True, False}


@pytest.mark.parametrize("path", COMMITTED, ids=lambda path: path.parent.name)
def test_every_committed_case_comes_back_from_its_request_as_it_was(path: Path, tmp_path: Path) -> None:
    case = load_case(path)
    request = request_of(case)
    assert request["extra"].get("ltx2_skip_v2a_cross_attn_for_video_gt", "not there") == (
        True if case.switches.skip_v2a_cross_attn_for_video_gt else "not there"
    )
    back = read(request, tmp_path)
    assert parse_case(case_text(back), path.parent) == case
    for image in case.request.images:
        (tmp_path / image.path).write_bytes(case.image_path(image).read_bytes())
    assert request_of(back) == request


def test_a_request_is_made_of_every_part_of_a_case(micro_case: MakeCase) -> None:
    overrides: dict[str, Any] = {
        "request.images": [{"path": "coffee.jpg", "frame_idx": 8, "strength": 0.25, "crf": 0}],
        "request.frame_rate": 23.976,
        "guidance.video": {"cfg_scale": 2.5, "skip_step": 1, "stg_blocks": [0, 3]},
    }
    request = request_of(micro_case(overrides))
    assert list(request) == [
        "id",
        "reference",
        "prompt",
        "negative_prompt",
        "seed",
        "height",
        "width",
        "num_frames",
        "frame_rate",
        "num_inference_steps",
        "images",
        "extra",
    ]
    assert request["frame_rate"] == 23.976 and request["negative_prompt"] == "blurry, silent"
    assert request["images"] == [{"path": "coffee.jpg", "frame_idx": 8, "strength": 0.25, "crf": 0}]
    guiders = request["extra"]["ltx2_stage1_guider_params"]
    assert (guiders["video_cfg_scale"], guiders["video_skip_step"], guiders["video_stg_blocks"]) == (2.5, 1, [0, 3])
    assert guiders["audio_cfg_scale"] == 7.0


def test_autocast_has_no_place_in_a_request(micro_case: MakeCase) -> None:
    with pytest.raises(CaseError, match=r"runs under autocast.*a request has no place for"):
        request_of(micro_case({"switches.disable_autocast": False}))


def test_a_recorded_request_becomes_a_case_with_every_value_in_its_place(tmp_path: Path) -> None:
    case = read(RECORDED, tmp_path)
    assert (case.id, case.reference, case.pipeline) == ("lake", "1.0.0", "one_stage")
    request, image = case.request, case.request.images[0]
    assert (request.prompt, request.negative_prompt, request.seed) == ("a lake", "blurry", 3)
    assert (request.height, request.width, request.num_frames) == (64, 96, 9)
    assert (request.frame_rate, request.num_inference_steps) == (24.0, 2)
    assert (image.path, image.frame_idx, image.strength, image.crf) == ("sub/a.png", 8, 0.5, 20)
    video, audio = case.guidance.video, case.guidance.audio
    assert (video.cfg_scale, video.stg_scale, video.rescale_scale, video.modality_scale) == (3.0, 1.0, 0.7, 2.0)
    assert (video.skip_step, video.stg_blocks) == (1, (1, 2))
    assert (audio.cfg_scale, audio.stg_scale, audio.rescale_scale, audio.modality_scale) == (7.0, 0.5, 0.25, 4.0)
    assert (audio.skip_step, audio.stg_blocks) == (2, ())
    assert case.switches.disable_autocast and not case.switches.skip_v2a_cross_attn_for_video_gt
    off = changed(lambda request: request["extra"].update(ltx2_skip_v2a_cross_attn_for_video_gt=True))
    assert read(off, tmp_path).switches.skip_v2a_cross_attn_for_video_gt
    assert parse_case(case_text(case), tmp_path) == case


@pytest.mark.parametrize("release", RELEASES)
def test_the_default_negative_prompt_of_the_release_is_left_to_the_release(release: str, tmp_path: Path) -> None:
    default = default_negative_prompt(RELEASES[release])
    said = changed(lambda request: request.update(reference=release, negative_prompt=default))
    unsaid = changed(lambda request: (request.update(reference=release), request.pop("negative_prompt")))
    assert read(said, tmp_path) == read(unsaid, tmp_path)
    assert read(said, tmp_path).request.negative_prompt is None
    other = changed(lambda request: request.update(reference=release, negative_prompt=DEFAULT_NEGATIVE_PROMPT))
    expected = None if default == DEFAULT_NEGATIVE_PROMPT else DEFAULT_NEGATIVE_PROMPT
    assert read(other, tmp_path).request.negative_prompt == expected


def test_any_text_survives(tmp_path: Path) -> None:
    prompt = "".join(map(chr, range(0x100))) + '"\'\'\' """\\ \U0001f680 \u2028\ufeff'
    case = read(changed(lambda request: request.update(prompt=prompt)), tmp_path)
    assert case.request.prompt == prompt
    assert parse_case(case_text(case), tmp_path) == case


def _guiders(request: dict[str, Any]) -> dict[str, Any]:
    guiders: dict[str, Any] = request["extra"]["ltx2_stage1_guider_params"]
    return guiders


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda r: r.update(guidance_scale=3.0), "unknown field `guidance_scale`"),
        (lambda r: r["extra"].update(ltx2_num_image_tokens=3), "unknown field `ltx2_num_image_tokens`"),
        (lambda r: _guiders(r).update(video_sigma=1), "unknown field `video_sigma`"),
        (lambda r: r["images"][0].update(weight=1), "unknown field `weight`"),
        (lambda r: _guiders(r).pop("audio_skip_step"), "missing required field `audio_skip_step`"),
        (lambda r: r["extra"].pop("ltx2_stage1_guider_params"), "missing required field `ltx2_stage1_guider_params`"),
        (lambda r: r.pop("extra"), "missing required field `extra`"),
        (lambda r: r.pop("prompt"), "missing required field `prompt`"),
        (lambda r: r.pop("seed"), "missing required field `seed`"),
        (lambda r: r.update(seed="3"), r"Expected `int`, got `str` - at `\$.seed`"),
        (lambda r: r.update(seed=3.5), r"Expected `int`, got `float` - at `\$.seed`"),
        (lambda r: r.update(prompt=["a"]), r"Expected `str`, got `array`"),
        (lambda r: _guiders(r).update(video_cfg_scale=None), "Expected `float`, got `null`"),
        (lambda r: _guiders(r).update(video_stg_blocks=28), "Expected `array`, got `int`"),
        (
            lambda r: r["extra"].update(ltx2_skip_v2a_cross_attn_for_video_gt="yes"),
            "Expected `bool`, got `str`.*ltx2_skip_v2a_cross_attn_for_video_gt",
        ),
        (lambda r: r.update(height=100), r"Case 'lake': request.height is 100; it must be a multiple of 32"),
        (lambda r: _guiders(r).update(audio_skip_step=-1), r"guidance.audio.skip_step is -1; wanted 0"),
        (lambda r: r["images"][0].update(path="/etc/passwd"), "leaves the case's folder"),
        (lambda r: r["images"][0].update(path="../a.png"), "leaves the case's folder"),
        (lambda r: r["images"][0].update(path="sub/../../a.png"), "leaves the case's folder"),
        (lambda r: r["images"][0].update(path="a\0b"), "cannot be used"),
        (lambda r: r["images"][0].update(path=""), "is not a file"),
        (lambda r: r["images"][0].update(path="."), "is not a file"),
        (lambda r: r.update(id="../lake"), "A case id is letters"),
    ],
)
def test_what_cannot_be_mapped_is_refused(
    change: Callable[[dict[str, Any]], object], sentence: str, tmp_path: Path
) -> None:
    with pytest.raises(CaseError, match=sentence):
        read(changed(change), tmp_path)


def test_a_release_that_there_is_not_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"Unknown reference release .9\.9."):
        read(changed(lambda request: request.update(reference="9.9")), tmp_path)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "is not valid JSON"),
        ("prompt = 'TOML'", "is not valid JSON"),
        ("[]", "Expected `object`, got `array`"),
        ("[" * 100_000, "nested too deeply"),
        (json.dumps(RECORDED) + "{}", "Extra data"),
        (json.dumps(RECORDED).replace('"seed": 3', '"seed": 3, "seed": 4'), "key 'seed' is given twice"),
        (json.dumps(RECORDED).replace("0.7", "NaN"), "is not valid JSON"),
        (json.dumps(RECORDED).replace("0.7", "1e999"), "too large for a float64"),
        (json.dumps(RECORDED).replace("a lake", "\\ud800"), "surrogates not allowed"),
        (json.dumps(RECORDED) + " " * MAX_CASE_BYTES, r"has more than 131072 bytes"),
    ],
    ids=["empty", "toml", "array", "deep", "two", "twice", "nan", "inf", "half-a-character", "large"],
)
def test_text_that_is_no_request_is_refused(text: str, sentence: str, tmp_path: Path) -> None:
    with pytest.raises(CaseError, match=sentence):
        read(text, tmp_path)


def test_files_that_are_no_text_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CaseError, match=r"no file that can be read .*; wanted is a request"):
        case_of_request(tmp_path / "missing.json")
    (tmp_path / "bytes.json").write_bytes(b"\xff\xfe")
    with pytest.raises(CaseError, match="cannot be read as UTF-8 text"):
        case_of_request(tmp_path / "bytes.json")
    with pytest.raises(CaseError, match=r"A case id is letters.*'a lake'"):
        read(RECORDED, tmp_path, "a lake.json")


def test_a_link_out_of_the_folder_is_no_way_out(tmp_path: Path) -> None:
    outside, inside = tmp_path / "outside", tmp_path / "inside"
    outside.mkdir()
    inside.mkdir()
    (inside / "sub").symlink_to(outside)
    with pytest.raises(CaseError, match="leaves the case's folder"):
        read(RECORDED, inside)


def test_a_request_is_of_one_stage() -> None:
    assert len(EVERY) - len(COMMITTED) >= 5
    for path in (path for path in EVERY if path not in COMMITTED):
        with pytest.raises(CaseError, match="a request is of one stage"):
            request_of(load_case(path))
