"""A name map: which tensor of an engine's dump is which tap.

A TOML file with one table:

    [taps]
    "connector/pos/video" = "text.video"
    "denoise/{step:03d}/{pass}/block/{block:02d}/video/self_attn" = "step{step}.{pass}.blocks.{block}.attn1"

Keys are taps; fields in braces stand for every step, pass, block, stream, sign or picture that the case has. Values are
names of tensors, with the same fields: `{step}` writes the number as it is, `{step:03d}` with three digits. Every tap
that a key stands for must be in the dump; a key that stands for no tap of the case is a mistake.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from runners.errors import RunError
from runners.load import parse_toml, read_text

MAX_BYTES: Final = 1 << 20
MOST_ENTRIES: Final = 4096
MOST_CHARACTERS: Final = 300  # of a name
FIELDS: Final = {  # what a field may stand for
    "step": r"\d{3,}",
    "block": r"\d{2,}",
    "image": r"\d+",
    "pass": "cond|uncond|perturbed|isolated",
    "stream": "video|audio",
    "sign": "pos|neg",
}
_FIELD: Final = re.compile(r"\{([a-z]+)(?::0([1-9])d)?\}")
REMEDY: Final = 'a map is TOML: a table [taps] of "TAP" = "TENSOR", as docs/engines.md shows'


@dataclass(frozen=True, kw_only=True)
class NameMap:
    """Taps and tensors, with fields."""

    entries: tuple[tuple[str, str], ...]

    @property
    def patterns(self) -> tuple[str, ...]:
        """Patterns of the taps that the dump has, as a runner that offers them declares them."""
        return tuple(dict.fromkeys(_FIELD.sub("*", key) for key, _ in self.entries))

    def expand(self, taps: Sequence[str]) -> list[tuple[str, str]]:
        """Each tap that a key stands for, with its tensor's name, in the order of `taps`.

        Raises: RunError for a key that stands for none, or a tap or tensor that two keys name.
        """
        found: dict[str, str] = {}
        for key, value in self.entries:
            form = _expression(key)
            hits = {tap: _filled(value, hit.groupdict()) for tap in taps if (hit := form.fullmatch(tap))}
            if not hits:
                raise RunError(f"The map's {key!r} is no tap of this case; README.md has the names of taps.")
            if twice := sorted(hits.keys() & found.keys()):
                raise RunError(f"The map names tap {twice[0]!r} twice, in {key!r} too.")
            found |= hits
        if len(set(found.values())) < len(found):
            names = list(found.values())
            again = next(name for name in names if names.count(name) > 1)
            raise RunError(f"The map gives the tensor {again!r} to more than one tap; is a field missing in its name?")
        return [(tap, found[tap]) for tap in taps if tap in found]


def read_name_map(path: Path) -> NameMap:
    """Read a map. Raises: RunError saying what of it is wrong."""
    text = read_text(path, RunError, REMEDY, max_bytes=MAX_BYTES)
    document = parse_toml(text, str(path), RunError, REMEDY)
    table = document.get("taps")
    if set(document) != {"taps"} or not isinstance(table, dict) or not 1 <= len(table) <= MOST_ENTRIES:
        raise RunError(f"{path} does not have its form: one table with 1 to {MOST_ENTRIES} entries; {REMEDY}.")
    for key, value in table.items():
        if not isinstance(value, str) or not 1 <= len(value) <= MOST_CHARACTERS or len(key) > MOST_CHARACTERS:
            raise RunError(f"{path}: {key[:60]!r} wants one name of at most {MOST_CHARACTERS} characters; {REMEDY}.")
        _require_fields(path, key, value)
    return NameMap(entries=tuple(table.items()))


def _require_fields(path: Path, key: str, value: str) -> None:
    in_key, in_value = ([field for field, _ in _FIELD.findall(text)] for text in (key, value))
    unknown = sorted({*in_key, *in_value} - FIELDS.keys())
    if unknown or len(set(in_key)) < len(in_key) or not set(in_value) <= set(in_key):
        raise RunError(
            f"{path}: {key[:60]!r} = {value[:60]!r} wants fields of {', '.join(FIELDS)}, each once in the key, and in "
            "the name only those of the key."
        )


def _expression(key: str) -> re.Pattern[str]:
    parts, place = [], 0
    for field in _FIELD.finditer(key):
        parts.append(re.escape(key[place : field.start()]) + f"(?P<{field[1]}>{FIELDS[field[1]]})")
        place = field.end()
    return re.compile("".join(parts) + re.escape(key[place:]))


def _filled(name: str, fields: dict[str, str]) -> str:
    def value(field: re.Match[str]) -> str:
        said = fields[field[1]]
        return f"{int(said):0{int(field[2] or 1)}d}" if said.isdecimal() else said

    return _FIELD.sub(value, name)
