"""The place of a case's picture: in the case's folder, or in `pictures/` beside that folder.

Many cases show the same photograph; `golden/pictures/` holds it once. What is in a case's own folder comes first.
"""

from pathlib import Path
from typing import Final

SHARED_FOLDER: Final = "pictures"


def picture_file(folder: Path, name: str) -> Path:
    """The file of a case's picture, which need not be there.

    Args:
        folder: of the case.
        name: relative to it, as the case has it. A shared picture is named without folders.
    Returns: the shared picture where there is one and the case's folder has none of that name; else that in the folder.
    """
    own = folder / name
    shared = folder.parent / SHARED_FOLDER / name
    if Path(name).name != name or own.is_file() or not shared.is_file():
        return own
    inside = shared.resolve().is_relative_to(shared.parent.resolve())  # a link may lead anywhere
    return shared if inside else own
