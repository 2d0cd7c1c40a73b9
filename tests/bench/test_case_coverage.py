"""The tiny cases show every field of a request and every branch of the native model, or say why they cannot."""

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from parity.defects.catalogue import CATALOGUE
from runners.case import Case, parse_case
from runners.forge.presets import Preset
from runners.weights import WeightsFolder

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "bench/case_coverage.py"
TOKENS_OF_WINDOW = 1024
Json = dict[str, Any]
Forge = Callable[..., WeightsFolder]


@pytest.fixture(scope="module")
def bench() -> ModuleType:
    spec = importlib.util.spec_from_file_location("bench_case_coverage", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # its dataclasses look themselves up there
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def cases(bench: ModuleType) -> dict[str, Case]:
    return {case.id: case for case in bench.tiny_cases()}


def narrow(preset: Preset) -> None:
    """As deep as `tiny` and made of the same parts, so that the same branches run, at a third of its width."""
    preset.config["transformer"].update(
        num_attention_heads=2,
        cross_attention_dim=64,
        audio_num_attention_heads=2,
        audio_cross_attention_dim=32,
        connector_num_attention_heads=2,
        audio_connector_num_attention_heads=2,
    )
    preset.config["vae"].update(decoder_base_channels=4)
    preset.config["vocoder"]["vocoder"].update(upsample_initial_channel=32)
    preset.config["vocoder"]["bwe"].update(upsample_initial_channel=16)
    preset.gemma["text_config"].update(num_attention_heads=2, num_key_value_heads=1, intermediate_size=40)


@pytest.fixture(scope="module")
def measured(forged: Forge) -> Json:
    """Branches of every file, by a process of its own: modules that tests imported before would not be heard."""
    command = [sys.executable, str(SCRIPT), "--weights", str(forged("narrow", narrow, "tiny").folder), "--json"]
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    done = subprocess.run(
        command, cwd=ROOT, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    found: Json = json.loads(done.stdout)
    return found


def test_every_field_of_a_case_has_two_values_or_a_reason(bench: ModuleType, cases: dict[str, Case]) -> None:
    fields = set(bench.schema_fields())
    assert {"request.images[].strength", "guidance.audio.stg_blocks", "switches.disable_autocast"} <= fields
    alike = {field for field in fields if len(bench.values(list(cases.values()), field)) < 2}
    assert alike == {entry["name"] for entry in bench.known()["field"]}  # neither unexplained nor stale


def test_values_are_counted_through_lists_and_a_field_with_one_choice_is_none(bench: ModuleType) -> None:
    text = (ROOT / "golden/tiny_ti2v/case.toml").read_text(encoding="utf-8")
    case = parse_case(text, ROOT / "golden/tiny_ti2v")
    two = [{"path": "a.png", "crf": 0}, {"path": "b.png", "crf": 33}]
    other = parse_case(text, ROOT / "golden/tiny_ti2v", {"request.images": two, "guidance.video.stg_blocks": [0]})
    assert bench.values([case, other], "request.images[]") == {"1", "2"}
    assert bench.values([case, other], "request.images[].crf") == {"0", "33"}
    assert bench.values([case, other], "guidance.video.stg_blocks") == {"[0]", "[2]"}
    assert bench.values([case, other], "request.negative_prompt") == {"null"}
    assert "pipeline" in bench.schema_fields() and "folder" not in bench.schema_fields()


@pytest.mark.slow
@pytest.mark.sweep
def test_every_branch_of_the_native_model_runs_in_some_case_or_has_a_reason(bench: ModuleType, measured: Json) -> None:
    missed = {place for file in measured.values() for place in file["missed"]}
    places = [place for entry in bench.known()["branch"] for place in entry["places"]]
    assert len(places) == len(set(places))
    assert sorted(missed - set(places)) == []  # neither run nor explained
    assert sorted(set(places) - missed) == []  # explained, and run after all or gone
    files = {
        path.relative_to(bench.MODEL).as_posix() for path in bench.MODEL.rglob("*.py") if not path.match(bench.KERNELS)
    }
    assert files == set(measured)  # also those that no case imports


def test_a_branch_is_named_by_its_function_its_line_and_its_side(bench: ModuleType) -> None:
    source = "def f(x):\n    if x:\n        y = 1\n    elif not x:\n        y = 2\n    for _ in ():\n        pass\n"
    assert bench.bodies_of(source) == {2: 3, 4: 5, 6: 7}


def test_every_blind_spot_of_the_first_cases_has_a_defect_that_is_tried_on_its_case_and_was_caught(
    bench: ModuleType, cases: dict[str, Case]
) -> None:
    spots = bench.known()["blind_spot"]
    assert len(spots) == 10
    catalogue = {defect.id: defect for defect in CATALOGUE}
    assert [spot for spot in spots if not catalogue[spot["defect"]].variant.fits(cases[spot["case"]])] == []
    measured = json.loads((ROOT / "docs/measurements/mutation_tiny.json").read_text())["rows"]
    caught = {row["id"] for row in measured if row["killed"] and row["located"]}
    assert {spot["defect"] for spot in spots} <= caught


def test_axes_of_every_case_differ_in_size_so_that_swapped_ones_show(cases: dict[str, Case]) -> None:
    for case in cases.values():
        request = case.request
        frames, rows, columns = (request.num_frames - 1) // 8 + 1, request.height // 32, request.width // 32
        sound = round(request.num_frames / request.frame_rate * 25)
        tokens = frames * rows * columns
        assert len({frames, rows, columns}) == 3, case.id
        assert len({tokens, sound, frames, rows, columns} - {1}) >= 4, case.id


def test_the_cases_are_what_they_are_said_to_be(cases: dict[str, Case], tiny_weights: WeightsFolder) -> None:
    from PIL import ExifTags, Image
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(str(tiny_weights.gemma_folder), local_files_only=True)
    text = cases["tiny_text_only"].request
    assert len(tokenizer(text.prompt.strip()).input_ids) > TOKENS_OF_WINDOW and not text.images
    assert len(tokenizer(text.negative_prompt).input_ids) < TOKENS_OF_WINDOW
    assert max(map(ord, text.prompt)) > 0xFFFF  # emoji lie beyond the basic plane
    two = cases["tiny_two_pictures"]
    turned, linear = (two.image_path(image) for image in two.request.images)
    with Image.open(turned) as first, Image.open(linear) as second:
        assert first.getexif()[ExifTags.Base.Orientation] == 6 and first.mode == "RGBA"
        assert first.getchannel("A").getextrema() == (0, 255) and first.width % 2 and first.height % 2
        assert second.mode == "RGB" and len(second.info["icc_profile"]) > 300
    # 20.85, 9.38 and 22.5 latent audio frames: to 21, 9 and (the nearer even number) 22.
    lengths = {name: case.request.num_frames / case.request.frame_rate * 25 for name, case in cases.items()}
    assert [round(lengths[name], 2) for name in ("tiny_two_pictures", "tiny_unguided_30_steps")] == [20.85, 9.38]
    assert lengths["release_1.2.0_tiny_tiles"] == 22.5
    for name, case in cases.items():
        if name.startswith("release_") and (same := name.split("_", 2)[2]) in cases:
            assert case.request == cases[same].request and case.guidance == cases[same].guidance


def test_the_page_says_what_the_script_says(bench: ModuleType, cases: dict[str, Case]) -> None:
    page = (ROOT / "docs/coverage.md").read_text(encoding="utf-8")
    everything = list(cases.values())
    assert {entry["id"] for entry in bench.known()["case"]} == set(cases)
    tables = bench.cases_table(everything), bench.fields_table(everything), bench.blind_spots_table()
    # Numbers of branches are left out: they move with every line of the model.
    for table in (*tables, bench.unreached_table()):
        assert table.strip() in page, "run `make coverage`"
