"""Reading the JSON registries of this project, strictly: a limit that is misread is a gate that passes by accident.

Unknown keys, keys given twice, wrong types, NaN and numbers too large to hold are errors. Infinities are written as the
strings "inf" and "-inf" (`parity.trace.atomic.plain` is the way out, `_infinite` the way back).
"""

import contextlib
import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from runners.errors import RegistryError

MAX_BYTES = 64 << 20  # more is no file of ours


class Strict(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of everything kept in a registry: immutable, and no key passes unnoticed."""


Form = TypeVar("Form", bound=Strict)


def load_document(path: Path, form: type[Form], wanted: str) -> Form:
    """Read a JSON file of a known form; `wanted` says in a few words what the file should be.

    Raises: RegistryError naming the file and the key or value that is wrong.
    """
    data = read_bounded(path, wanted)
    with naming(path, wanted):
        return as_form(json_value(data), form)


def read_bounded(path: Path, wanted: str, most: int = MAX_BYTES) -> bytes:
    """The bytes of a file, if there are not too many. Raises: RegistryError."""
    if not path.is_file():
        raise RegistryError(f"No {wanted} at {path}; `make thresholds` writes it.")
    try:
        with path.open("rb") as file:
            data = file.read(most + 1)
    except OSError as error:
        raise RegistryError(f"{path} cannot be read ({error}); wanted {wanted}.") from error
    if len(data) > most:
        raise RegistryError(f"{path} has more than {most} bytes; {wanted} has at most that.")
    return data


@contextlib.contextmanager
def naming(path: Path, wanted: str) -> Iterator[None]:
    """Put the file's name before what is wrong in it. Raises: RegistryError."""
    try:
        yield
    except RegistryError as error:
        raise RegistryError(f"{path} is not a valid {wanted}: {error}") from error


def json_value(data: bytes) -> Any:
    """Strict JSON as plain values, infinities as floats. Raises: RegistryError."""
    try:
        value = json.loads(
            data.decode("utf-8"),
            object_pairs_hook=_table_without_repeats,
            parse_constant=_refuse,
            parse_float=_finite,
            parse_int=_whole,
        )
        return _infinite(value)
    except UnicodeDecodeError as error:
        raise RegistryError(f"not UTF-8 text: {error}.") from error
    except json.JSONDecodeError as error:
        raise RegistryError(f"not JSON: {error}.") from error
    except RecursionError:
        raise RegistryError("nested too deeply.") from None


def as_form(value: Any, form: type[Form]) -> Form:
    """Build a structure from plain values. Raises: RegistryError."""
    try:
        return msgspec.convert(value, form, strict=True)
    except msgspec.ValidationError as error:
        raise RegistryError(f"{error}.") from error


def _table_without_repeats(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(pairs)
    if len(table) != len(pairs):
        names = [name for name, _ in pairs]
        raise RegistryError(f"key {next(name for name in names if names.count(name) > 1)!r} is given twice.")
    return table


def _refuse(text: str) -> float:
    raise RegistryError(f'{text} is not a JSON number; write "inf" or "-inf" in quotes, and never NaN.')


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise RegistryError(f"{text} is too large for a float64.")
    return number


def _whole(text: str) -> int:
    if len(text) > 20:  # Python's own limit on digits would raise an error of another kind
        raise RegistryError(f"{text[:20]}... is too large for a whole number.")
    return int(text)


def _infinite(value: Any) -> Any:
    if isinstance(value, str):
        return float(value) if value in ("inf", "-inf") else value
    if isinstance(value, dict):
        return {key: _infinite(item) for key, item in value.items()}
    return [_infinite(item) for item in value] if isinstance(value, list) else value
