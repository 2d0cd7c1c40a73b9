from pathlib import Path

import pytest

from runners.forge.make import forge


@pytest.fixture(scope="session")
def tiny_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return forge("tiny", 0, tmp_path_factory.mktemp("forge") / "tiny")
