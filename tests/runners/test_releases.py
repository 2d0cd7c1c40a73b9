"""Releases as presets of named behaviours."""

from dataclasses import fields
from typing import Any

import pytest

from runners.errors import ConfigError
from runners.releases import RELEASES, ReleaseBehaviours, reference_of


def test_the_first_release_has_every_behaviour_off() -> None:
    assert reference_of("1.0.0") == ReleaseBehaviours()
    assert not any(vars(ReleaseBehaviours()).values()) and len(fields(ReleaseBehaviours)) >= 9
    assert all(isinstance(reference, ReleaseBehaviours) for reference in RELEASES.values())


def test_single_behaviours_are_laid_over_a_release() -> None:
    reference = reference_of("1.0.0", {"positions_fp32": True, "vocoder_fp32": False})
    assert reference == ReleaseBehaviours(positions_fp32=True)


@pytest.mark.parametrize(
    ("release", "overrides", "sentence"),
    [
        ("2.0.0", {}, "Unknown reference release '2.0.0'; known are 1.0.0"),
        ("", {}, "Unknown reference release ''"),
        ("1.0.0", {"positions": True, "a": True}, "Unknown reference behaviour a, positions; known are cross_timestep"),
        ("1.0.0", {"positions_fp32": "yes"}, "A reference behaviour is true or false; got positions_fp32 = 'yes'"),
        ("1.0.0", {"positions_fp32": 1}, "got positions_fp32 = 1"),
    ],
)
def test_what_is_not_known_is_refused(release: str, overrides: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        reference_of(release, overrides)
