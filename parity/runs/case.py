"""The case that a run recorded, and the data-flow that it lays out."""

from pathlib import Path

from parity.runs.folder import Run, case_of_manifest
from parity.runs.places import project_root
from parity.taps.dataflow import Dataflow
from parity.taps.name import place_of
from parity.trace.file import Trace
from runners.case import Case
from runners.errors import RunError
from runners.files import sha256_of


def flow_of(reference: Run, candidate: Run, trace: Trace | None) -> Dataflow:
    """The dataflow of the case of two runs, on as many blocks as either run says its model has.

    Of runs that say nothing, the reference's trace knows: a last block that it lacks is then not missed.

    Raises: RunError if the trace names no block although all taps were asked for, or a tap that is none, or if there is
        no trace to ask.
    """
    run = reference
    known = reference.manifest.num_blocks or candidate.manifest.num_blocks
    if known is not None:
        return Dataflow(case_of(run), known)
    if trace is None:
        raise RunError(
            f"Neither {reference.folder} nor {candidate.folder} says how many blocks its model has; run again."
        )
    blocks = {block for tap in trace if "/block/" in tap and (block := place_of(tap).block) is not None}
    if not blocks and trace.pattern in (None, "*"):
        raise RunError(
            f"The trace in {run.folder} has no taps of blocks, so the depth of the model cannot be told; "
            "record it with --taps '*'."
        )
    return Dataflow(case_of(run), max(blocks, default=0) + 1)


def case_with_pictures(run: Run, folder: Path | None = None) -> Case:
    """The case that a run recorded, its pictures held to their hashes.

    Args:
        run: of the case.
        folder: where its pictures are; None takes the case's folder under golden/.
    Raises: RunError if it is no case, or a picture is another one.
    """
    case = case_of(run, folder or project_root() / "golden" / Path(run.case_id).name)
    for image in case.request.images:
        if sha256_of(case.image_path(image)) != run.manifest.inputs.get(image.path):
            raise RunError(
                f"{case.image_path(image)} is not the picture that {run.folder} was run with; name its case file."
            )
    return case


def case_of(run: Run, folder: Path | None = None) -> Case:
    """The case that a run recorded, its pictures looked for in `folder`. Raises: RunError if it is no case."""
    return case_of_manifest(run.manifest.case, str(run.folder), str(folder or ""))
