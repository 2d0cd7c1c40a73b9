"""Imported outputs beside those of a reference: the same losses on both sides, and tags that say what is not so.

Axes: F frame, H height, W width, C channel, N sample; h, w of a box.

A clip may be right in every sample and yet say the wrong thing of them: planes of full range under a tag of limited
range, BT.709 under BT.601, left and right exchanged. Such a clip is compared as it says it is meant, which is how
people see and hear it, and where it fits the reference far better if read otherwise, that is a finding.
"""

from dataclasses import replace
from typing import Final

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from parity.diff.comparison import MEASURED, EvidenceLevel, Finding
from parity.diff.metric import METRICS
from parity.runs.encoding import Colour, Matrix
from parity.runs.folder import ImportRecord, Run, RunOutputs
from parity.runs.outputs import LATENTS
from parity.runs.through_encoder import through_encoder
from runners.errors import RunError

BOX_PX: Final = 16  # a side of what is averaged before colours are held together
NEARLY: Final = 1.5  # times the least squared error
FITS_BETTER: Final = 4.0  # times less squared error, or a tag is not called wrong: half the distance
WITHOUT_LATENTS: Final = replace(
    MEASURED,
    without=tuple(name for name in METRICS if name.split(".")[0] in LATENTS or name.rpartition(".")[2] in LATENTS),
)
MATRICES: Final[tuple[Matrix, ...]] = ("bt601", "bt709")
COLOURS: Final = tuple(Colour(full_range=full, matrix=matrix) for full in (False, True) for matrix in MATRICES)
LUMA_OF: Final = {"bt601": (0.299, 0.114), "bt709": (0.2126, 0.0722)}  # weights of red and blue in Y


def outputs_level(imported: ImportRecord) -> EvidenceLevel:
    """The level of imported outputs: whole, or without latents that the import was not given."""
    return MEASURED if imported.latents else WITHOUT_LATENTS


def losses_of(reference: Run, imported: ImportRecord) -> RunOutputs:
    """The reference's outputs through the encoder that the candidate's went through; without latents if it has none.

    Raises: RunError for a reference that keeps reduced outputs, whose frames cannot be encoded.
    """
    encoding = imported.encoding
    if reference.reduced:
        raise RunError(
            f"{reference.folder} keeps three frames whole, and a clip in the form {imported.form} is compared with all "
            "of them, encoded; take a whole run with --against, or fetch this one with `parity fetch`."
        )
    lossy = reference.once(("through", imported.form), lambda: through_encoder(reference.outputs(), encoding))
    return lossy if imported.latents else without_latents(lossy)


def without_latents(outputs: RunOutputs) -> RunOutputs:
    """The outputs, their latents left out."""
    return replace(outputs, video_latent=None, audio_latent=None)


def import_findings(reference: RunOutputs, candidate: RunOutputs, imported: ImportRecord) -> tuple[Finding, ...]:
    """Findings of what the files of an import say wrongly of themselves.

    Args:
        reference: with the same losses.
        candidate: as imported.
        imported: the record of the import.
    """
    found = [Finding(code="wrong_tag", where=where, message=message) for where, message in imported.doubts]
    video = imported.encoding.video
    frames = reference.video_frames, candidate.video_frames
    if frames[0].shape == frames[1].shape and frames[0].numel():
        meant = meant_colour(*frames, None if video is None else video.colour)
        if meant is not None:
            found.append(_wrong_colour(*meant, tagged=video is not None and meant[0] == video.colour))
    if swapped_channels(reference.audio_waveform, candidate.audio_waveform):
        message = "the first channel holds the reference's second, and the second its first"
        found.append(Finding(code="swapped_channels", where="audio", message=message))
    return tuple(found)


def meant_colour(reference: Tensor, candidate: Tensor, said: Colour | None) -> tuple[Colour, Colour] | None:
    """The reading of a candidate's planes and the one that was meant, if the second fits the reference far better.

    Args:
        reference: uint8 (F, H, W, 3), RGB.
        candidate: the same shape.
        said: how a file says that its planes are meant, and they were read; None for pictures, which say nothing.
    """
    old, new = _means(reference), _means(candidate)
    as_it_is = float((new - old).square().sum())
    errors = {
        (read, meant): float((read_as(new, read, meant) - old).square().sum())
        for read in COLOURS
        for meant in COLOURS
        if meant != read
    }
    least = min(errors.values())
    if least * FITS_BETTER >= as_it_is:
        return None
    # Several pairs move pictures by nearly the same; that of the tag is the simplest to be wrong.
    near = [pair for pair, error in errors.items() if error <= least * NEARLY]
    return next((pair for pair in near if pair[0] == said), min(near, key=lambda pair: errors[pair]))


def _means(frames: Tensor) -> Tensor:
    """Means of boxes, float64 (F, h, w, 3): encoders hardly move them, and a reading moves them as it does pixels."""
    box = min(BOX_PX, *frames.shape[1:3])
    planes = rearrange(frames.double(), "f h w c -> f c h w")
    return rearrange(F.avg_pool2d(planes, box), "f c h w -> f h w c")


def read_as(frames: Tensor, read: Colour, meant: Colour) -> Tensor:
    """Frames that were made RGB by one reading of their planes, by the other one; float64 (F, H, W, 3), 0 to 255."""
    to_planes, black, white = _planes_of(read)
    again, black_meant, white_meant = _planes_of(meant)
    planes = (frames.double() / 255) @ to_planes.T * white + black
    rgb = ((planes - black_meant) / white_meant) @ torch.linalg.inv(again).T
    bytes_again: Tensor = (rgb * 255).clamp(0, 255)
    return bytes_again


def _planes_of(colour: Colour) -> tuple[Tensor, Tensor, Tensor]:
    """RGB to Y, Cb, Cr from 0 to 1 and -0.5 to 0.5, their black level and their span in steps of a byte (BT.601-7)."""
    red, blue = LUMA_OF[colour.matrix]
    luma = torch.tensor([red, 1 - red - blue, blue], dtype=torch.float64)
    unit = torch.eye(3, dtype=torch.float64)
    to_planes = torch.stack((luma, (unit[2] - luma) / (2 - 2 * blue), (unit[0] - luma) / (2 - 2 * red)))
    if colour.full_range:
        return to_planes, torch.tensor([0.0, 128, 128]).double(), torch.tensor([255.0, 255, 255]).double()
    return to_planes, torch.tensor([16.0, 128, 128]).double(), torch.tensor([219.0, 224, 224]).double()


def _wrong_colour(read: Colour, meant: Colour, *, tagged: bool) -> Finding:
    if tagged:
        message = f"the file says {read.words}, or nothing, which means that; its planes fit {meant.words}"
    else:
        message = f"the pictures look as if planes of {meant.words} had been read as {read.words}"
    return Finding(code="wrong_tag", where="colour", message=message)


def swapped_channels(reference: Tensor, candidate: Tensor) -> bool:
    """True if a pair of channels fits the reference far better with both exchanged; (2, N) each."""
    if reference.shape != candidate.shape or reference.shape[0] != 2:
        return False
    old, new = reference.double(), candidate.double()
    as_it_is, exchanged = (float((one - old).square().sum()) for one in (new, new.flip(0)))
    return exchanged * FITS_BETTER < as_it_is
