"""Importing official code so that what runs is what was hashed: its two packages, from their sources, and nothing else.

A folder on `sys.path` would also offer whatever else lies there, in place of a library of that name, and a cache beside
a source counts for Python as that source as long as size and time of change agree.
"""

import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import (
    EXTENSION_SUFFIXES,
    SOURCE_SUFFIXES,
    ExtensionFileLoader,
    FileFinder,
    ModuleSpec,
    SourceFileLoader,
)
from pathlib import Path
from types import CodeType, ModuleType

from runners.errors import RunnerError
from runners.official.files import PACKAGES, OfficialCode


class _FromSource(SourceFileLoader):
    """Compiles the source at every import; caches are neither read nor written."""

    def get_code(self, fullname: str) -> CodeType:
        path = self.get_filename(fullname)
        return self.source_to_code(self.get_data(path), path)


class _Finder(MetaPathFinder):
    """Finds the official packages in some folders."""

    def __init__(self, sources: Sequence[Path]) -> None:
        self._sources = [str(source) for source in sources]

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname.partition(".")[0] not in PACKAGES:
            return None
        for folder in self._sources if path is None else path:
            finder = FileFinder(folder, (ExtensionFileLoader, EXTENSION_SUFFIXES), (_FromSource, SOURCE_SUFFIXES))
            found = finder.find_spec(fullname, target)
            if found is not None:
                return found
        return None


def import_from(code: OfficialCode) -> None:
    """Make `import ltx_core` mean this code. Raises: RunnerError if this process has imported other official code."""
    roots = {str(source.resolve()) for source in code.sources}
    for package in PACKAGES:
        there = getattr(sys.modules.get(package), "__file__", None)
        if there is not None and str(Path(there).resolve().parents[1]) not in roots:
            raise RunnerError(
                f"This process has already imported {package} from {Path(there).parent}; one process runs one official "
                "code. Run the other in a process of its own with --runner-python."
            )
    sys.meta_path[:] = [finder for finder in sys.meta_path if not isinstance(finder, _Finder)]
    if not code.installed:
        sys.meta_path.insert(0, _Finder(code.sources))
