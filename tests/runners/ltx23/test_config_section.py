"""Sections that are read by their annotations: keys, defaults, types and bounds, and what is refused by name."""

from dataclasses import dataclass
from typing import Annotated, Any, Literal

import pytest

from runners.errors import ConfigError
from runners.ltx23.config_section import (
    Bounds,
    Key,
    Section,
    require_equal,
    require_neutral,
    required_section,
    section_of,
)


@dataclass(frozen=True, kw_only=True)
class Inner(Section):
    """A section inside another."""

    rate: float


@dataclass(frozen=True, kw_only=True)
class Outer(Section):
    """One field of every type."""

    inner: Inner
    size: int
    layers: Annotated[int, Key("num_layers"), Bounds(0, 9)] = 2
    rate: Annotated[float, Bounds(1, 5)] = 1.5
    gated: bool = False
    norm: Literal["pixel", "group"] = "pixel"
    axis: Literal["height"] | None = "height"
    pairs: Annotated[tuple[Annotated[tuple[int, ...], Bounds(2, 2)], ...], Bounds(1, 3)] = ((1, 2),)
    levels: frozenset[int] = frozenset({8})


INNER = Inner(rate=0.5)


def read(**values: Any) -> Outer:
    return Outer.read("outer", {"size": 7, **values}, inner=INNER)


def test_absent_keys_take_the_defaults_and_others_are_passed_over() -> None:
    assert read(layers=5, norm_num_groups=32) == Outer(size=7, inner=INNER)  # the file's key is num_layers
    assert read(inner=3).inner == INNER  # what is given is not read


def test_every_type_is_read_and_lists_cannot_be_changed_afterwards() -> None:
    found = read(num_layers=0, rate=5, gated=True, norm="group", axis=None, pairs=[[3, 4], [5, 6]], levels=[16, 32])
    assert found == Outer(
        size=7,
        inner=INNER,
        layers=0,
        rate=5,
        gated=True,
        norm="group",
        axis=None,
        pairs=((3, 4), (5, 6)),
        levels=frozenset({16, 32}),
    )


def test_a_prefix_stands_before_every_key() -> None:
    found = Outer.read("outer", {"size": 7, "num_layers": 3, "audio_size": 11}, prefix="audio_", inner=INNER)
    assert (found.size, found.layers) == (11, 2)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"size": None}, "outer.size is None; wanted a whole number from 1 to 1048576"),
        ({"size": True}, "outer.size is True"),
        ({"size": 7.0}, "outer.size is 7.0"),
        ({"size": 2**20 + 1}, "outer.size is 1048577"),
        ({"num_layers": 10}, "outer.num_layers is 10; wanted a whole number from 0 to 9"),
        ({"rate": 1}, "outer.rate is 1; wanted a number above 1 and at most 5"),
        ({"rate": float("nan")}, "outer.rate is nan"),
        ({"rate": False}, "outer.rate is False"),
        ({"gated": 1}, "outer.gated is 1; wanted true or false"),
        ({"norm": ["pixel"]}, r"outer.norm is \['pixel'\]; wanted 'pixel' or 'group'"),
        ({"norm": None}, "outer.norm is None"),
        ({"axis": "width"}, "outer.axis is 'width'; wanted 'height', or null"),
        ({"pairs": []}, r"outer.pairs is \[\]; wanted a list of 1 to 3 entries"),
        ({"pairs": [[1, 2]] * 4}, "outer.pairs is"),
        ({"pairs": [[1, 2], [3]]}, "each a list of 2 to 2 entries, each a whole number"),
        ({"pairs": "12"}, "outer.pairs is '12'"),
        ({"levels": [[16]]}, r"outer.levels is \[\[16\]\]"),
    ],
)
def test_what_does_not_fit_is_refused_by_its_key(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        read(**values)


def test_what_has_no_default_must_be_there_and_what_is_given_is_checked() -> None:
    with pytest.raises(ConfigError, match=r"outer.size is None"):
        Outer.read("outer", {}, inner=INNER)
    with pytest.raises(ConfigError, match=r"Outer.inner is 3; wanted a Inner"):
        Outer.read("outer", {"size": 7}, inner=3)
    with pytest.raises(ConfigError, match=r"Inner.rate is 0.0; wanted a number above 0"):
        Inner(rate=0.0)


def test_sections_are_found_or_missed_by_name() -> None:
    config = {"a": {"b": {"c": 1}}, "d": 2}
    assert section_of(config, "a", "b") == {"c": 1}
    assert section_of(config, "a", "x", "y") == {}
    assert required_section(config, "a") == {"b": {"c": 1}}
    with pytest.raises(ConfigError, match=r"part.d is 2; wanted a section"):
        section_of(config, "d", "e", within="part")
    with pytest.raises(ConfigError, match=r"no section 'd'; an LTX-2.3 file has one.*got the sections a, d"):
        required_section(config, "d")


def test_a_value_that_must_stand_may_not_be_absent_and_a_neutral_one_may() -> None:
    require_equal("part", {"a": 1}, {"a": 1, "b": None})
    require_neutral("part", {"a": 1}, {"a": 1, "b": True})
    with pytest.raises(ConfigError, match=r"part.a is None; LTX-2.3 has 1"):
        require_equal("part", {}, {"a": 1})
    with pytest.raises(ConfigError, match=r"part.b is None and would be ignored; only True"):
        require_neutral("part", {"b": None}, {"b": True})
