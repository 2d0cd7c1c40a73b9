"""Limits through encoders: those that are committed follow from their samples, and the count follows from them."""

import json
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from parity.calibrate.drift import compare_in_dtype
from parity.calibrate.forms import FormPopulations, populations_of, score_of
from parity.cli.app import app
from parity.diff.outputs import OutputsDiff
from parity.judge.registry import load_registry
from parity.judge.strength import KIND_OF_FORM, load_strength
from parity.runs.encoding import Encoding
from parity.runs.folder import RunOutputs
from parity.runs.golden import find_case, golden_of
from parity.runs.places import form_limits_path, form_mutation_path, project_root
from parity.runs.through_encoder import through_encoder
from runners.errors import RegistryError

FORMS = ("h264-yuv420p-crf23_aac-128k", "h264-yuv420p-crf23_wav")
CASE = "tiny_ti2v"


@pytest.fixture(scope="module")
def golden() -> RunOutputs:
    return golden_of(CASE).outputs()


def seen(golden: RunOutputs, candidate: RunOutputs, label: str) -> OutputsDiff:
    encoding = Encoding.of_label(label)
    return compare_in_dtype(through_encoder(golden, encoding), through_encoder(candidate, encoding))


def louder(outputs: RunOutputs, times: float) -> RunOutputs:
    return RunOutputs(**{**vars(outputs), "audio_waveform": outputs.audio_waveform * times})


def test_every_committed_form_has_limits_of_its_samples_and_a_count() -> None:
    folders = sorted(path.name for path in (project_root() / "thresholds" / "forms").iterdir())
    assert folders == sorted(FORMS)
    for form in folders:
        registry = load_registry(form_limits_path(form))
        registry.verify()
        origins = {one.compared_on[CASE] for one in registry.calibrations.values()}
        assert origins == {form}, "limits of another form"
        counted = load_strength(form_mutation_path(form), KIND_OF_FORM)
        assert counted is not None and counted.form == form
        assert 0 < counted.killed_by_levels["outputs"] == counted.killed <= counted.defects
        with pytest.raises(RegistryError, match="kind 'form'"):
            load_strength(form_mutation_path(form))


def test_the_count_is_by_the_committed_limits(golden: RunOutputs) -> None:
    """A run that is the reference passes, one three times as loud does not, and an equivalent one is not counted."""
    label = FORMS[1]
    environment = {"device": "cpu", "torch": torch.__version__}
    registry = load_registry(form_limits_path(label))
    environment |= next(iter(registry.calibrations.values())).environment
    found = FormPopulations(
        encoding=Encoding.of_label(label),
        floor={},
        defects={"loud": seen(golden, louder(golden, 3.0), label), "none": seen(golden, golden, label)},
        harmless={"repeated": seen(golden, golden, label)},
    )
    score = score_of(find_case(CASE), found, registry, environment, ["none"])
    (row,) = score.rows
    assert row.killed and "audio.level_db.max_abs" in row.metrics
    assert not any(metric.startswith(("video_latent", "audio_latent")) for metric in row.metrics)
    assert (score.killed, score.false_alarms) == (1, ())
    assert score.document()["killed_by_levels"] == {"outputs": 1}


def test_a_harmless_run_that_cannot_be_compared_makes_no_limit(golden: RunOutputs) -> None:
    shorter = RunOutputs(**{**vars(golden), "audio_waveform": golden.audio_waveform[:, :-1]})
    found = FormPopulations(
        encoding=Encoding(), floor={"cut": seen(golden, shorter, "png_wav")}, defects={}, harmless={}
    )
    with pytest.raises(RegistryError, match="'cut' of 'tiny_ti2v' cannot be compared: length_mismatch"):
        populations_of(find_case(CASE), found)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--form", "png_wav", "--case", CASE], "loses nothing"),
        (["--form", "../x", "--case", CASE], "is no form of outputs"),
        (["--form", FORMS[0]], "one case"),
        (["--form", FORMS[0], "--case", CASE, "--perf-only"], "one case"),
    ],
)
def test_what_is_no_lossy_form_of_one_case_is_refused(arguments: list[str], said: str, tmp_path: Path) -> None:
    called = CliRunner().invoke(app, ["calibrate", "--weights", str(tmp_path), *arguments])
    assert called.exit_code == 2 and said in " ".join(called.output.split())


def test_rows_say_what_was_noticed() -> None:
    for form in FORMS:
        document = json.loads(form_mutation_path(form).read_text())
        assert document["killed"] == sum(row["killed"] for row in document["rows"])
        assert all(row["metrics"] or row["findings"] for row in document["rows"] if row["killed"])
        assert document["false_alarms"] == [row["id"] for row in document["benign_rows"] if row["killed"]]
