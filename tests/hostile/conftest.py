"""The honest checkout that every variant is a damaged copy of."""

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import hypothesis.configuration
import pytest

from runners.weights import WeightsFolder
from tests.hostile import honest


@pytest.fixture(scope="module")  # what it sets, no other test may see
def world(
    tmp_path_factory: pytest.TempPathFactory, micro_weights: WeightsFolder, micro_case_text: str
) -> Iterator[Path]:
    before, temporary = dict(os.environ), tempfile.tempdir
    base = tmp_path_factory.mktemp("honest")
    hypothesis.configuration.set_hypothesis_home_dir(
        base.parent / "hypothesis"
    )  # which keeps tables of characters there
    honest.build(base, micro_weights.folder, micro_case_text)
    yield base
    os.environ.clear()
    os.environ.update(before)
    tempfile.tempdir = temporary
