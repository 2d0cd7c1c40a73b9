"""The case that a run recorded, with its pictures."""

from pathlib import Path

from parity.runs.folder import Run, case_of_manifest
from parity.runs.places import case_folder
from runners.case import Case
from runners.errors import RunError
from runners.files import sha256_of


def case_with_pictures(run: Run, folder: Path | None = None) -> Case:
    """The case that a run recorded, its pictures held to their hashes.

    Args:
        run: of the case.
        folder: where its pictures are; None takes the case's folder under golden/.
    Raises: RunError if it is no case, or a picture is another one.
    """
    case = case_of_run(run, folder or case_folder(Path(run.case_id).name))
    for image in case.request.images:
        if sha256_of(case.image_path(image)) != run.manifest.inputs.get(image.path):
            raise RunError(
                f"{case.image_path(image)} is not the picture that {run.folder} was run with; name its case file."
            )
    return case


def case_of_run(run: Run, folder: Path | None = None) -> Case:
    """The case that a run recorded, its pictures looked for in `folder`. Raises: RunError if it is no case."""
    return case_of_manifest(run.manifest.case, str(run.folder), str(folder or ""))
