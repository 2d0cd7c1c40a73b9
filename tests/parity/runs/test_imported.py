"""Imports: a run folder like any other, that says what it is, and refuses what it cannot be."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from parity.runs.folder import read_run
from parity.runs.imported import ImportedFiles, import_run
from parity.runs.reduced import reduce_outputs
from runners.case import Case, parse_case
from runners.errors import MediaError, OutputError, ParityError, RunError, RunnerError
from runners.names import NAMES

SaveFrames = Callable[..., Path]
SaveWav = Callable[..., Path]
FRAMES = torch.arange(9 * 64 * 96 * 3).remainder(253).to(torch.uint8).view(9, 64, 96, 3)
SOUND = torch.linspace(-0.5, 0.5, 2 * 4801).view(2, 4801)
LATENTS = {"video_latent": torch.ones(1, 128, 2, 3, 5).bfloat16(), "audio_latent": torch.ones(1, 8, 7, 16).bfloat16()}


@pytest.fixture
def case(micro_case_text: str, tmp_path: Path) -> Case:
    return parse_case(micro_case_text, tmp_path)


@pytest.fixture
def bring(case: Case, tmp_path: Path, save_frames: SaveFrames, save_wav: SaveWav) -> Callable[..., Path]:
    """Import pictures and sound; keywords change the call."""
    frames, sound = save_frames("frames", FRAMES), save_wav("sound.wav", SOUND, 24000)

    def call(**changes: Any) -> Path:
        files = ImportedFiles(**{"frames": frames, "sound": sound, **changes.pop("files", {})})
        wanted: dict[str, Any] = {
            "runner": "an_engine-1.2",
            "weights": None,
            "device": torch.device("cpu"),
            "dtype": torch.bfloat16,
        }
        import_run(tmp_path / "run", case, files, **{**wanted, **changes})
        return tmp_path / "run"

    return call


def test_an_import_is_a_run_without_latents_that_says_so(bring: Callable[..., Path], case: Case) -> None:
    run = read_run(bring())
    outputs = run.outputs()
    assert torch.equal(outputs.video_frames, FRAMES) and torch.equal(outputs.audio_waveform, SOUND)
    assert (outputs.video_latent, outputs.audio_latent) == (None, None)
    assert (outputs.frame_rate, outputs.sample_rate) == (case.request.frame_rate, 24000)
    assert run.imported is not None and run.imported.form == "png_wav" and not run.imported.latents
    assert set(run.imported.sources) == {"frames", "sound"}
    record = run.manifest
    assert (record.runner, record.weights_hash, record.sigmas, record.step_s) == ("an_engine-1.2", "", [], [])
    assert reduce_outputs(outputs).video_latent is None


def test_latents_are_taken_where_they_are_given(bring: Callable[..., Path], tmp_path: Path) -> None:
    save_file(LATENTS, tmp_path / "latents.safetensors")
    outputs = read_run(bring(files={"latents": tmp_path / "latents.safetensors"})).outputs()
    assert outputs.video_latent is not None and torch.equal(outputs.video_latent, LATENTS["video_latent"])
    save_file({"video_latent": LATENTS["video_latent"]}, tmp_path / "one.safetensors")
    with pytest.raises(RunError, match="wanted"):
        bring(files={"latents": tmp_path / "one.safetensors"}, replace=True)


@pytest.mark.parametrize("name", NAMES)
def test_the_name_of_a_known_runner_is_refused(name: str, bring: Callable[..., Path]) -> None:
    with pytest.raises(RunnerError, match="are taken"):
        bring(runner=name)


@pytest.mark.parametrize("name", ["", "An_Engine", "a/b", "..\n", "x" * 41, "a b"])
def test_a_name_is_of_few_letters(name: str, bring: Callable[..., Path]) -> None:
    with pytest.raises(RunnerError, match="40 at most"):
        bring(runner=name)


def test_a_finished_run_is_replaced_only_if_that_is_asked_for(bring: Callable[..., Path]) -> None:
    bring()
    with pytest.raises(OutputError, match="replace"):
        bring()
    bring(replace=True)


def test_nothing_is_left_of_an_import_that_fails(bring: Callable[..., Path], tmp_path: Path, save_wav: SaveWav) -> None:
    nan = save_wav("nan.wav", torch.full((2, 5), torch.nan), 24000)
    with pytest.raises(MediaError, match="NaN"):
        bring(files={"sound": nan})
    with pytest.raises(MediaError, match="has no sound"):
        bring(files={"sound": None})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["frames", "nan.wav", "sound.wav"]


def test_taps_want_a_map_and_weights(bring: Callable[..., Path], tmp_path: Path) -> None:
    for files in ({"taps": tmp_path / "dump"}, {"names": tmp_path / "map"}, dict.fromkeys(("taps", "names"), tmp_path)):
        with pytest.raises(RunnerError, match="--weights"):
            bring(files=files)


@pytest.mark.parametrize(
    "claim",
    [
        {"form": "../../x", "latents": False, "sources": {}},
        {"form": "png_wav", "latents": "no", "sources": {}},
        {"form": "png_wav"},
        7,
    ],
)
def test_a_record_of_an_import_that_has_not_its_form_is_refused(claim: Any, bring: Callable[..., Path]) -> None:
    path = bring() / "run.json"
    document = json.loads(path.read_text())
    document["details"]["imported"] = claim
    path.write_text(json.dumps(document))
    with pytest.raises(ParityError, match="import the run again"):
        read_run(path.parent)


def test_a_runner_of_ours_is_not_imported_and_so_not_judged_by_looser_limits(bring: Callable[..., Path]) -> None:
    path = bring() / "run.json"
    document = json.loads(path.read_text())
    document["runner"] = "native"
    path.write_text(json.dumps(document))
    with pytest.raises(RunError, match="says that it was imported from 'native'"):
        read_run(path.parent)


def test_a_run_that_is_no_import_owes_its_latents(bring: Callable[..., Path]) -> None:
    path = bring() / "run.json"
    document = json.loads(path.read_text())
    del document["details"]["imported"]
    path.write_text(json.dumps(document))
    with pytest.raises(RunError, match="audio_latent"):
        read_run(path.parent).outputs()
