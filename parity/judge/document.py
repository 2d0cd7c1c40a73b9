"""Strict reading of the JSON registries of this project: a limit that is misread lets a run pass.

`runners.load` reads text and JSON. Beyond what it refuses, unknown keys and NaN are errors here. Infinities are written
as the strings "inf" and "-inf" (`parity.trace.atomic.plain` is the way out, `_infinite` the way back).
"""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from runners.errors import RegistryError
from runners.load import MAX_BYTES, parse, read_text
from runners.strict import Strict

Form = TypeVar("Form", bound=Strict)


def load_document(path: Path, form: type[Form], wanted: str) -> Form:
    """Read a JSON file of a known form; `wanted` says in a few words what the file should be.

    Raises: RegistryError naming the file and the key or value that is wrong.
    """
    value = json_value(document_text(path, wanted), path, wanted)
    with naming(path, wanted):
        return as_form(value, form)


def document_text(path: Path, wanted: str, max_bytes: int = MAX_BYTES) -> str:
    """The text of a regular file. Raises: RegistryError."""
    return read_text(path, RegistryError, _remedy(wanted), max_bytes=max_bytes)


def json_value(text: str, path: Path, wanted: str) -> Any:
    """The value of strict JSON, infinities still as strings. Raises: RegistryError naming the file."""
    return parse(text, str(path), RegistryError, _remedy(wanted))


def as_form(value: Any, form: type[Form]) -> Form:
    """Build a structure from what JSON says. Raises: RegistryError."""
    try:
        return msgspec.convert(_infinite(value), form, strict=True)
    except msgspec.ValidationError as error:
        raise RegistryError(f"{error}.") from error
    except RecursionError:
        raise RegistryError("nested too deeply.") from None


@contextlib.contextmanager
def naming(path: Path, wanted: str) -> Iterator[None]:
    """Put the file's name before what is wrong in it. Raises: RegistryError."""
    try:
        yield
    except RegistryError as error:
        raise RegistryError(f"{path} is not a valid {wanted}: {error}") from error


def _remedy(wanted: str) -> str:
    return f"wanted a {wanted}, which `make thresholds` writes"


def _infinite(value: Any) -> Any:
    if isinstance(value, str):
        return float(value) if value in ("inf", "-inf") else value
    if isinstance(value, dict):
        return {key: _infinite(item) for key, item in value.items()}
    return [_infinite(item) for item in value] if isinstance(value, list) else value
