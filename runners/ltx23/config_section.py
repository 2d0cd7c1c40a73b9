"""Typed sections of a checkpoint's configuration: annotations of a dataclass say its keys, types and bounds, once.

    @dataclass(frozen=True, kw_only=True)
    class DecoderConfig(Section):
        num_layers: Annotated[int, Bounds(1, 100)] = 48
        head_width: Annotated[int, Key("attention_head_dim")] = 128
        norm: Literal["pixel", "group"] = "pixel"

    DecoderConfig.read("decoder", {"num_layers": 4, "norm": "group"})

An absent key takes the field's default, a value that does not fit is refused by name, and keys that no field names are
passed over, as the official code does. The same checks run wherever a section is constructed.

Types are bool, int, float, Literal, `X | None`, tuple and frozenset of one type (lists in a file), and classes.
A stranger's file may claim any size; bounds keep the model's outline, built before the tensors are checked, finite.
"""

from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, fields
from types import NoneType
from typing import Annotated, Any, Final, Literal, NamedTuple, Self, get_args, get_origin, get_type_hints

from runners.errors import ConfigError


class Bounds(NamedTuple):
    """Least and most that a whole number may be or a list have entries; any other number lies above the least."""

    least: int
    most: int


class Key(NamedTuple):
    """A field's name in the file, where it has another."""

    name: str


SIZE: Final = Bounds(1, 1 << 20)  # of a whole number
QUANTITY: Final = Bounds(0, 1 << 30)  # of any other number
ENTRIES: Final = Bounds(0, 100)  # of a list


@dataclass(frozen=True, kw_only=True)
class Rule:
    """The values that fit a type."""

    wanted: str
    fits: Callable[[Any], bool]
    kept: Callable[[Any], Any] = lambda value: value  # how a value that fits is held


class Section:
    """Base of a frozen dataclass that is read from a section."""

    def __post_init__(self) -> None:
        """Check every field. Raises: ConfigError."""
        for name, hint in _hints(type(self)).items():
            checked(f"{type(self).__name__}.{name}", hint, getattr(self, name))

    @classmethod
    def read(cls, where: str, values: Mapping[str, Any], prefix: str = "", **given: Any) -> Self:
        """Read the fields that are not given.

        Args:
            where: what an error calls the section.
            values: its keys.
            prefix: stands before every key.
            given: fields that the section does not decide.
        Raises: ConfigError naming the key that is absent and has no default, or whose value does not fit.
        """
        found = dict(given)
        for field in fields(cls):  # type: ignore[arg-type]  # every subclass is a dataclass
            hint = _hints(cls)[field.name]
            key = prefix + next((mark.name for mark in _marks(hint) if isinstance(mark, Key)), field.name)
            if field.name not in given and (key in values or field.default is MISSING):
                found[field.name] = checked(f"{where}.{key}", hint, values.get(key))
        return cls(**found)


def checked(name: str, hint: Any, value: Any) -> Any:
    """The value, lists as tuples. Raises: ConfigError, in the name's terms, if it does not fit the type."""
    rule = _rule(hint)
    if not rule.fits(value):
        raise ConfigError(f"{name} is {value!r}; wanted {rule.wanted}. Correct the checkpoint's configuration.")
    return rule.kept(value)


def section_of(values: Mapping[str, Any], *path: str, within: str = "configuration") -> Mapping[str, Any]:
    """The section at the end of a path of keys, empty where one is absent. Raises: ConfigError for what is none."""
    for key in path:
        values = values.get(key, {})
        if not isinstance(values, Mapping):
            raise ConfigError(f"{within}.{key} is {values!r}; wanted a section.")
    return values


def required_section(config: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """A section of a checkpoint's whole configuration. Raises: ConfigError if there is none."""
    section = config.get(name)
    if not isinstance(section, Mapping):
        raise ConfigError(
            f"The checkpoint's configuration has no section {name!r}; an LTX-2.3 file has one. Pass the whole "
            f"configuration of a full checkpoint; got the sections {', '.join(map(str, config)) or 'none'}."
        )
    return section


def require_equal(where: str, values: Mapping[str, Any], wanted: Mapping[str, object]) -> None:
    """Refuse keys that are absent or not the one value that is implemented; only None may be left out."""
    for key, value in wanted.items():
        if values.get(key) != value:
            raise ConfigError(
                f"{where}.{key} is {values.get(key)!r}; LTX-2.3 has {value!r} and nothing else is implemented. "
                "Is this an LTX-2.3 checkpoint?"
            )


def require_neutral(where: str, values: Mapping[str, Any], neutral: Mapping[str, object]) -> None:
    """Refuse keys that are present with a value at which ignoring them would change the model."""
    for key, value in neutral.items():
        if values.get(key, value) != value:
            raise ConfigError(
                f"{where}.{key} is {values[key]!r} and would be ignored; only {value!r} is implemented. "
                "Take a checkpoint of LTX-2.3."
            )


def _hints(kind: type) -> dict[str, Any]:
    return get_type_hints(kind, include_extras=True)


def _marks(hint: Any) -> tuple[Any, ...]:
    return get_args(hint)[1:] if get_origin(hint) is Annotated else ()


def _rule(hint: Any) -> Rule:
    bounds = next((mark for mark in _marks(hint) if isinstance(mark, Bounds)), None)
    plain = get_args(hint)[0] if get_origin(hint) is Annotated else hint
    origin, arguments = get_origin(plain), get_args(plain)
    if plain is bool:
        return Rule(wanted="true or false", fits=lambda value: type(value) is bool)
    if plain is int:
        least, most = bounds or SIZE
        return Rule(
            wanted=f"a whole number from {least} to {most}",
            fits=lambda value: type(value) is int and least <= value <= most,
        )
    if plain is float:
        above, most = bounds or QUANTITY
        return Rule(
            wanted=f"a number above {above} and at most {most}",
            fits=lambda value: type(value) in (int, float) and above < value <= most,  # nor NaN
        )
    if origin is Literal:
        return Rule(wanted=" or ".join(map(repr, arguments)), fits=lambda value: value in arguments)
    if origin in (tuple, frozenset):
        return _list_rule(origin, _rule(arguments[0]), bounds or ENTRIES)
    if NoneType in arguments:
        rule = _rule(arguments[0])
        return Rule(wanted=f"{rule.wanted}, or null", fits=lambda value: value is None or rule.fits(value))
    return Rule(wanted=f"a {plain.__name__}", fits=lambda value: isinstance(value, plain))


def _list_rule(kind: type[tuple[Any, ...]] | type[frozenset[Any]], entry: Rule, count: Bounds) -> Rule:
    return Rule(
        wanted=f"a list of {count.least} to {count.most} entries, each {entry.wanted}",
        fits=lambda value: (
            isinstance(value, list | kind) and count.least <= len(value) <= count.most and all(map(entry.fits, value))
        ),
        kept=lambda value: kind(map(entry.kept, value)),
    )
