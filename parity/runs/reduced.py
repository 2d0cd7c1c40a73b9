"""The part of a large run that a golden keeps: enough to judge any candidate, in a twenty-fourth of the size.

Axes: F frame, K key frame, H height, W width, h and w those of a small frame, C channel, N sample.

Whole stay the waveform, both final latents and three key frames (first, middle, last; PNG, which loses nothing), of
frames of more than a megapixel a window of the middle one alone. Of all frames stay the SHA-256 of each, which decides
bit equality, and small copies, averaged over boxes of 8 x 8 pixels, or of twice that and so on until no side is longer
than 48. Of the trace stay the checksum of every tap, which decides bit equality, and for drift the sketches of all taps
outside the blocks and, at three steps of each stage, of those in every eighth block and the last. A candidate is
reduced as the golden was before it is compared, so both sides always hold the same.
"""

import hashlib
import re
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from PIL import Image
from torch import Tensor

from parity.runs.folder import KEY_FRAME_FILES, MIDDLE_FRAME_FILE, REDUCED_FILE, RunOutputs
from parity.runs.outputs import LATENT_DTYPES, read_tensors, write_tensors
from parity.taps.pattern import includes
from parity.trace.atomic import file_atomic
from parity.trace.checksums import TapChecksums, write_checksums
from parity.trace.file import Trace, write_trace
from runners.errors import RunError
from runners.files import HeldFile, opened, opened_tensors
from runners.stages import StagePlan

BOX_PX: Final = 8  # a side of what one pixel of a small frame is the mean of
SMALLEST_BOX_PX: Final = 4  # for frames so narrow that a small one would have no room for the window of SSIM
LONGEST_SIDE_PX: Final = 48  # of a small frame; the box is doubled until it fits
SHORTEST_SIDE_PX: Final = 7  # of a small frame, which SSIM's window needs; no doubling goes below
BLOCKS_APART: Final = 8  # of those whose sketches are kept
MAX_KEY_PIXELS: Final = (
    1 << 20
)  # of a key frame; of larger ones, whose three PNGs take 12 MB and more, one window stays
_KEY_FRAMES: Final = {name: index for index, name in enumerate(KEY_FRAME_FILES)}  # of `spread`
_DIGEST_BYTES: Final = 32
_FRAME_SIZE: Final = "frame_size"  # in the header, as HEIGHTxWIDTH, where key frames do not have it
_BLOCK: Final = re.compile(r"/block/(\d+)/")
_TENSORS: Final = {
    "small_frames": (4, ("U8",)),
    "frame_sha256": (2, ("U8",)),
    "audio_waveform": (2, ("F32", "BF16")),
    "video_latent": (5, LATENT_DTYPES),
    "audio_latent": (4, LATENT_DTYPES),
}  # number of axes and dtypes


@dataclass(frozen=True, kw_only=True)
class ReducedOutputs:
    """Outputs after reduction. `frame_shape` is that of all frames before it, (F, H, W, 3)."""

    frame_shape: tuple[int, ...]
    box_px: int  # side of the boxes that small frames are means of
    frame_sha256: Tensor  # uint8 (F, 32), of each frame's bytes
    key_frames: Tensor  # uint8 (K, H, W, 3), or the window of that that is kept
    small_frames: Tensor  # uint8 (F, h, w, 3)
    audio_waveform: Tensor  # fp32 (C, N)
    video_latent: Tensor | None
    audio_latent: Tensor | None
    frame_rate: float
    sample_rate: int

    @property
    def key_frame_places(self) -> tuple[int, ...]:
        """Places of the key frames among all frames."""
        frames, height_px, width_px, _ = self.frame_shape
        return tuple(spread(frames)[_KEY_FRAMES[name]] for name in key_frame_files(height_px, width_px))


def key_frame_files(height_px: int, width_px: int) -> tuple[str, ...]:
    """Names of the key frames that are kept of frames of this size."""
    return KEY_FRAME_FILES if height_px * width_px <= MAX_KEY_PIXELS else (MIDDLE_FRAME_FILE,)


def key_window(height_px: int, width_px: int) -> tuple[slice, slice]:
    """The rows and columns of a key frame that are kept: all, or the middle of sides halved until few are enough."""
    rows, columns = height_px, width_px
    while rows * columns > MAX_KEY_PIXELS:
        rows, columns = rows // 2, columns // 2
    top, left = (height_px - rows) // 2, (width_px - columns) // 2
    return slice(top, top + rows), slice(left, left + columns)


def spread(count: int) -> tuple[int, int, int]:
    """The first, the middle and the last of so many frames or steps."""
    return 0, count // 2, count - 1


def reduce_outputs(outputs: RunOutputs, box_px: int | None = None) -> ReducedOutputs:
    """Reduce the outputs of a run, on the CPU.

    Args:
        outputs: with at least one frame, uint8 (F, H, W, 3).
        box_px: side of the boxes that a golden's small frames are means of; None for what a new golden would have.
    Raises: RunError for frames of another form.
    """
    frames = outputs.video_frames.cpu()
    if frames.ndim != 4 or frames.dtype != torch.uint8 or frames.numel() == 0 or frames.shape[3] != 3:
        raise RunError(
            f"Frames of shape {tuple(frames.shape)} and {frames.dtype} cannot be reduced; wanted uint8 (F, H, W, 3)."
        )
    count, height_px, width_px, _ = frames.shape
    box_px = box_px or default_box_px(height_px, width_px)
    rows, columns = key_window(height_px, width_px)
    kept = [spread(count)[_KEY_FRAMES[name]] for name in key_frame_files(height_px, width_px)]
    return ReducedOutputs(
        frame_shape=tuple(frames.shape),
        box_px=box_px,
        frame_sha256=torch.stack([_digest(frame) for frame in frames]),
        key_frames=frames[kept, rows, columns],
        small_frames=torch.stack([_small(frame, box_px) for frame in frames]),
        audio_waveform=outputs.audio_waveform,
        video_latent=outputs.video_latent,
        audio_latent=outputs.audio_latent,
        frame_rate=outputs.frame_rate,
        sample_rate=outputs.sample_rate,
    )


def default_box_px(height_px: int, width_px: int) -> int:
    """Side of the boxes that frames of this size are averaged over in a new golden."""
    longest, shortest = max(height_px, width_px), min(height_px, width_px)
    if SHORTEST_SIDE_PX * SMALLEST_BOX_PX <= shortest < SHORTEST_SIDE_PX * BOX_PX:
        return SMALLEST_BOX_PX
    box = BOX_PX
    while longest > LONGEST_SIDE_PX * box and shortest >= SHORTEST_SIDE_PX * 2 * box:
        box *= 2
    return box


def _digest(frame: Tensor) -> Tensor:
    digest = hashlib.sha256(frame.contiguous().numpy().data).digest()
    return torch.frombuffer(bytearray(digest), dtype=torch.uint8)


def _small(frame: Tensor, box_px: int) -> Tensor:
    """Mean of each box; sums of bytes are exact in float32, so only the division rounds. Boxes at an edge are cut."""
    planes = rearrange(frame.float(), "h w c -> 1 c h w")
    means = F.avg_pool2d(planes, box_px, ceil_mode=True, count_include_pad=False)
    return rearrange((means + 0.5).floor().to(torch.uint8), "1 c h w -> h w c")


def write_reduced(folder: Path, reduced: ReducedOutputs) -> None:
    """Write reduced outputs into a run folder."""
    wave = reduced.audio_waveform
    half = wave.bfloat16()  # decoders work in bf16, so this usually loses nothing
    tensors = {
        "small_frames": reduced.small_frames,
        "frame_sha256": reduced.frame_sha256,
        "audio_waveform": half if torch.equal(half.float(), wave) else wave,
        "video_latent": reduced.video_latent,
        "audio_latent": reduced.audio_latent,
    }
    height_px, width_px = reduced.frame_shape[1:3]
    cut = reduced.key_frames.shape[1:3] != (height_px, width_px)
    said = {_FRAME_SIZE: f"{height_px}x{width_px}"} if cut else None
    write_tensors(folder / REDUCED_FILE, {name: one for name, one in tensors.items() if one is not None}, said)
    for name, frame in zip(key_frame_files(height_px, width_px), reduced.key_frames, strict=True):
        with file_atomic(folder / name) as new:
            Image.fromarray(frame.numpy()).save(new, format="PNG", optimize=True)


def read_reduced(file: Callable[[str], Path | HeldFile], frame_rate: float, sample_rate: int) -> ReducedOutputs:
    """Read reduced outputs.

    Args:
        file: gives each file of them by its name.
        frame_rate: frames a second.
        sample_rate: samples a second.
    Raises: RunError; forms and sizes are checked in the headers before anything is read.
    """
    tensors, cut_px = _read_tensors(file(REDUCED_FILE))
    frames, *small = tensors["small_frames"].shape
    names = KEY_FRAME_FILES if cut_px is None else (MIDDLE_FRAME_FILE,)
    pictures = [_read_key_frame(file(name), tuple(small), cut_px) for name in names]
    if len(sizes := {tuple(picture.shape) for picture in pictures}) > 1:
        raise RunError(
            f"The key frames beside {file(REDUCED_FILE)} have different sizes: {sorted(sizes)}. Restore the golden."
        )
    key_frames = torch.stack(pictures)
    height_px, width_px = cut_px or key_frames.shape[1:3]
    box_px = _box_of((height_px, width_px), tuple(small))
    assert box_px is not None  # or no key frame would have been read
    for name, frame in zip(names, key_frames, strict=True) if cut_px is None else ():
        place = spread(frames)[_KEY_FRAMES[name]]
        if not torch.equal(_digest(frame), tensors["frame_sha256"][place]):
            raise RunError(f"{file(name)} is not frame {place} of its run: the hash is another. Restore the golden.")
    return ReducedOutputs(
        frame_shape=(frames, height_px, width_px, 3),
        box_px=box_px,
        frame_sha256=tensors["frame_sha256"],
        key_frames=key_frames,
        small_frames=tensors["small_frames"],
        audio_waveform=tensors["audio_waveform"].float(),
        video_latent=tensors["video_latent"],
        audio_latent=tensors["audio_latent"],
        frame_rate=frame_rate,
        sample_rate=sample_rate,
    )


def _read_tensors(path: Path | HeldFile) -> tuple[dict[str, Tensor], tuple[int, int] | None]:
    """The tensors, and the height and width of frames of which a window is kept."""
    tensors = read_tensors(path, _TENSORS)
    small, digests = tensors["small_frames"], tensors["frame_sha256"]
    if small.numel() == 0 or small.shape[3] != 3 or digests.shape != (small.shape[0], _DIGEST_BYTES):
        raise RunError(f"{path} has small frames {tuple(small.shape)} and frame hashes {tuple(digests.shape)}.")
    with opened_tensors(path, RunError, "restore the golden") as file:
        said = (file.metadata() or {}).get(_FRAME_SIZE)
    if said is None:
        return tensors, None
    found = re.fullmatch(r"([1-9]\d{0,4})x([1-9]\d{0,4})", said)
    cut_px = (int(found[1]), int(found[2])) if found else None
    if cut_px is None or cut_px[0] * cut_px[1] <= MAX_KEY_PIXELS or _box_of(cut_px, tuple(small.shape[1:])) is None:
        raise RunError(f"{path} is of frames of {said[:20]!r} pixels, and has small frames {tuple(small.shape)}.")
    return tensors, cut_px


def _read_key_frame(path: Path | HeldFile, small: tuple[int, ...], cut_px: tuple[int, int] | None) -> Tensor:
    """One PNG; its size is checked, against the small frames where it is whole, before a pixel is decoded."""
    try:
        with opened(path, RunError, "restore the golden") as file, warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # of more pixels than are taken here
            image = Image.open(file, formats=["PNG"])
            width, height = image.size
            if cut_px is None:
                fits = _box_of((height, width), small) is not None and height * width <= MAX_KEY_PIXELS
            else:
                rows, columns = key_window(*cut_px)
                fits = (height, width) == (rows.stop - rows.start, columns.stop - columns.start)
            if image.mode != "RGB" or not fits:
                raise RunError(f"{path} is a {image.mode} picture of {width} x {height}; small frames are {small}.")
            pixels = np.array(image)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise RunError(f"{path} cannot be read ({error}); restore the golden.") from error
    return torch.from_numpy(pixels)


def _box_of(size_px: Sequence[int], small: tuple[int, ...]) -> int | None:
    """Side of the boxes that make frames of this size so small: 4 or twice that and so on; None if none does."""
    height_px, width_px = size_px
    box_px = SMALLEST_BOX_PX
    while (-(-height_px // box_px), -(-width_px // box_px), 3) != small:
        if box_px > max(height_px, width_px):
            return None
        box_px *= 2
    return box_px


def kept_taps(plans: Sequence[StagePlan], last_block: int) -> str:
    """The taps whose sketches a reduced trace keeps, as a pattern, for a request of these stages."""
    blocks = dict.fromkeys((*range(0, last_block, BLOCKS_APART), last_block))
    outside = []
    for plan in plans:
        first = plan.prefix == ""
        names = ("text", "connector", "image", "init", "decode") if first else ("upsample", "image", "init")
        for name in (*names, "denoise/*/x0", "denoise/*/guided", "denoise/*/latent"):
            outside.append(f"{name if name == 'upsample' else plan.prefix + name}/*")
    inside = (
        f"{plan.prefix}denoise/{step:03d}/*/block/{block:02d}/*"
        for plan in plans
        for step in dict.fromkeys(spread(plan.evaluations))
        for block in blocks
    )
    return " ".join((*outside, *inside))


def kept_taps_of(trace: Trace, plans: Sequence[StagePlan], num_blocks: int | None) -> str:
    """The same for a trace; where it is not known how many blocks the model has, the last in the trace is the last."""
    if num_blocks is None:
        num_blocks = 1 + max((int(found[1]) for name in trace if (found := _BLOCK.search(name))), default=0)
    return kept_taps(plans, num_blocks - 1)


def write_reduced_trace(
    trace: Trace, folder: Path, plans: Sequence[StagePlan], num_blocks: int | None, *, thin: bool = False
) -> None:
    """Write into `folder` what a golden keeps of a trace.

    Args:
        trace: of a run; or of a golden already, with `thin`, which then need have no more than one keeps today.
        folder: of the golden.
        plans: the stages of the run.
        num_blocks: of the transformer, where it is known.
        thin: take the trace of a golden.
    Raises: RunError if that trace is not whole.
    """
    kept = kept_taps_of(trace, plans, num_blocks)
    wanted = kept if thin else "*"
    if not (includes(trace.pattern, wanted) and trace.complete):
        raise RunError("What a golden is made of is not a whole trace of all taps; record the run again, --taps '*'.")
    write_checksums(folder, TapChecksums(digests=trace.bits, pattern=trace.pattern_of_bits))
    write_trace(folder, trace.part(kept))
