"""Names of the checkpoint's tensors in an engine, both ways.

Values are never changed, so a name says all of a conversion. A rule is a pair (checkpoint side, engine side). The
longest matching prefix is replaced first, then whole dotted parts of the rest; read right to left, the same rules lead
back.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from runners.errors import CheckpointError

Rule = tuple[str, str]

LISTED: Final = 10  # offending names in an error
# Of the video VAE in official files: statistics that normalizing does not read, for which no engine has a place.
UNREAD_STATISTICS: Final = (re.compile(r"vae\.per_channel_statistics\.(channel|mean-of-stds.*)"),)


@dataclass(frozen=True, kw_only=True)
class ComponentNames:
    """The rules of one component of an engine."""

    component: str
    prefixes: tuple[Rule, ...]
    parts: tuple[Rule, ...] = ()

    def to_component(self, name: str) -> str | None:
        """A checkpoint name as a key of the component; None if it is another component's."""
        return _renamed(name, self.prefixes, self.parts)

    def to_checkpoint(self, key: str) -> str | None:
        """A key of the component as a checkpoint name; None if no rule fits."""
        return _renamed(key, [(b, a) for a, b in self.prefixes], [(b, a) for a, b in self.parts])


@dataclass(frozen=True, kw_only=True)
class Renaming:
    """The whole table of an engine for a checkpoint."""

    engine: str
    components: tuple[ComponentNames, ...]
    dropped: tuple[re.Pattern[str], ...] = ()  # names that the engine has no place for

    def place(self, name: str) -> tuple[str, str]:
        """Component and key of a checkpoint name; a more specific prefix of another component goes before.

        Raises: CheckpointError if no component has it.
        """
        fitting = [(_prefix_length(table, name), table) for table in self.components]
        length, table = max(fitting, key=lambda found: found[0])
        key = table.to_component(name) if length else None
        if key is None:
            raise CheckpointError(
                f"Tensor {name!r} has no place in {self.engine}; take a text-and-image-to-video checkpoint."
            )
        return table.component, key

    def keys(self, names: Iterable[str]) -> dict[str, dict[str, str]]:
        """For each component its keys, each with the checkpoint name that fills it.

        Raises: CheckpointError for a name without a place, two names for one place, or a name that does not lead back.
        """
        found: dict[str, dict[str, str]] = {table.component: {} for table in self.components}
        back = {table.component: table for table in self.components}
        for name in names:
            if any(pattern.fullmatch(name) for pattern in self.dropped):
                continue
            component, key = self.place(name)
            if key in found[component]:
                raise CheckpointError(f"Tensors {found[component][key]!r} and {name!r} are both {component} {key!r}.")
            if back[component].to_checkpoint(key) != name:
                raise CheckpointError(f"Tensor {name!r} becomes {component} {key!r}, which does not lead back to it.")
            found[component][key] = name
        return found


def _prefix_length(table: ComponentNames, name: str) -> int:
    return max((len(prefix) for prefix, _ in table.prefixes if name.startswith(prefix)), default=0)


def _renamed(name: str, prefixes: Iterable[Rule], parts: Sequence[Rule]) -> str | None:
    fitting = [rule for rule in prefixes if name.startswith(rule[0])]
    if not fitting:
        return None
    old, new = max(fitting, key=lambda rule: len(rule[0]))
    rest = name.removeprefix(old)
    if parts:
        table = dict(parts)
        longest_first = "|".join(re.escape(part) for part in sorted(table, key=len, reverse=True))
        rest = re.sub(rf"(?<![^.])({longest_first})(?![^.])", lambda match: table[match[1]], rest)
    return new + rest
