"""The base of whatever a case file or registry holds: immutable, keyword arguments only, no key passes unnoticed.

That is msgspec's `Struct`. A runner in an interpreter of its own (`parity.runs.child_main`) need not have msgspec: it
gets cases that the other side has read and checked already, and there a frozen dataclass of the same form is enough.
"""

from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING or find_spec("msgspec") is not None:
    import msgspec

    class Strict(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
        """Base class; every subclass is a struct of its own."""

    def fields_of(thing: Strict) -> dict[str, Any]:
        """Its fields by name, as they are."""
        return msgspec.structs.asdict(thing)

else:
    from dataclasses import dataclass

    class Strict:
        """Base class; every subclass becomes a dataclass of its own."""

        def __init_subclass__(cls, *, frozen: bool, kw_only: bool) -> None:
            dataclass(frozen=frozen, kw_only=kw_only)(cls)

    def fields_of(thing: Strict) -> dict[str, Any]:
        """Its fields by name, as they are."""
        return dict(vars(thing))
