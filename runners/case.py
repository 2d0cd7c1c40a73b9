"""A case: one recorded request for video with sound, read from a TOML file that may come from a stranger.

The file's tables are `[request]`, `[[request.images]]`, `[guidance.video]`, `[guidance.audio]` and `[switches]`; the
README shows one. Unknown or missing keys and wrong types are errors, and an image path may not leave the case's folder.
"""

import json
import math
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from runners.errors import CaseError
from runners.strict import Strict

MAX_CASE_BYTES = 1 << 20  # a case is prose and numbers; anything larger is not one
MAX_SIDE_PX = 8192
MAX_FRAMES = 4097
MAX_DURATION_S = 3600  # a frame rate may ask for any; nothing longer gets sound
MAX_STEPS = 1000
MAX_BLOCKS = 4096
SPATIAL_FACTOR = 32  # pixels a latent cell spans along height and width
TEMPORAL_FACTOR = 8  # pixel frames a latent frame spans, the first one excepted
AUDIO_LATENTS_PER_S = 25
CASE_ID = r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}"  # also the name of a folder under golden/


class ImageCondition(Strict, frozen=True, kw_only=True):
    """A picture the video must show at a frame."""

    path: str  # relative to the case file
    frame_idx: int = 0
    strength: float = 1.0  # 1 keeps the picture, 0 ignores it
    crf: int = 33  # H.264 quality of the round trip the picture takes first; 0 skips it


class Request(Strict, frozen=True, kw_only=True):
    """What is asked of the model."""

    prompt: str
    negative_prompt: str | None = None  # None: the official default of the reference release
    seed: int
    height: int  # pixels
    width: int  # pixels
    num_frames: int
    frame_rate: float  # frames per second
    num_inference_steps: int
    images: tuple[ImageCondition, ...] = ()


class Guider(Strict, frozen=True, kw_only=True):
    """Guidance of one modality; the formula is in `runners.ltx23.guidance`."""

    cfg_scale: float = 1.0
    stg_scale: float = 0.0
    rescale_scale: float = 0.0
    modality_scale: float = 1.0
    skip_step: int = 0  # evaluate one step of skip_step + 1, reuse its x0 in the others
    stg_blocks: tuple[int, ...] = ()


class Guidance(Strict, frozen=True, kw_only=True):
    """Guidance of both modalities."""

    video: Guider
    audio: Guider


class Switches(Strict, frozen=True, kw_only=True):
    """Deviations from the plain official run that a ground truth may be recorded with."""

    skip_v2a_cross_attn_for_video_gt: bool = False
    disable_autocast: bool = True


class Case(Strict, frozen=True, kw_only=True):
    """A complete case. `folder` is where its image paths start; it is not part of the file."""

    id: str
    pipeline: Literal["one_stage"]
    reference: str = "1.0.0"
    request: Request
    guidance: Guidance
    switches: Switches = Switches()
    folder: str = ""

    def __post_init__(self) -> None:
        """Refuse what the model cannot run. Raises: CaseError."""
        request = self.request
        where = f"Case {self.id!r}"
        if not re.fullmatch(CASE_ID, self.id):
            raise CaseError(f"A case id is letters, digits, '_', '.' and '-', at most 100; got {self.id!r}.")
        for side in ("height", "width"):
            value: int = getattr(request, side)
            if value % SPATIAL_FACTOR or not 0 < value <= MAX_SIDE_PX:
                low = min(max(SPATIAL_FACTOR, value // SPATIAL_FACTOR * SPATIAL_FACTOR), MAX_SIDE_PX - SPATIAL_FACTOR)
                raise CaseError(
                    f"{where}: request.{side} is {value}; it must be a multiple of {SPATIAL_FACTOR} up to "
                    f"{MAX_SIDE_PX} pixels. Take {low} or {low + SPATIAL_FACTOR}."
                )
        frames = request.num_frames
        if frames % TEMPORAL_FACTOR != 1 or not 0 < frames <= MAX_FRAMES:
            low = min(max(0, (frames - 1) // TEMPORAL_FACTOR) * TEMPORAL_FACTOR + 1, MAX_FRAMES - TEMPORAL_FACTOR)
            raise CaseError(
                f"{where}: request.num_frames is {frames}; it must be 8k + 1 and at most {MAX_FRAMES}. "
                f"Take {low} or {low + TEMPORAL_FACTOR}."
            )
        if not (math.isfinite(request.frame_rate) and 0 < request.frame_rate <= 1000):
            raise CaseError(f"{where}: request.frame_rate is {request.frame_rate}; wanted 0 < rate <= 1000 a second.")
        if frames / request.frame_rate > MAX_DURATION_S:
            raise CaseError(
                f"{where}: {frames} frames at {request.frame_rate} a second last {frames / request.frame_rate:.3g} s; "
                f"at most {MAX_DURATION_S} s are made. Ask for fewer frames or a higher rate."
            )
        if round(frames / request.frame_rate * AUDIO_LATENTS_PER_S) == 0:
            raise CaseError(
                f"{where}: {frames} frames at {request.frame_rate} a second last {frames / request.frame_rate:.3g} s, "
                f"too short for sound ({AUDIO_LATENTS_PER_S} latents a second); ask for more frames or a lower rate."
            )
        if not 1 <= request.num_inference_steps <= MAX_STEPS:
            raise CaseError(
                f"{where}: request.num_inference_steps is {request.num_inference_steps}; wanted 1 to {MAX_STEPS}."
            )
        if not 0 <= request.seed < 2**63:
            raise CaseError(f"{where}: request.seed is {request.seed}; wanted 0 <= seed < 2^63.")
        for index, image in enumerate(request.images):
            _check_image(f"{where}: request.images[{index}]", image, frames)
        for modality, guider in (("video", self.guidance.video), ("audio", self.guidance.audio)):
            _check_guider(f"{where}: guidance.{modality}", guider)

    def image_path(self, image: ImageCondition) -> Path:
        """Where a condition's picture lies. Raises: CaseError if the path leaves the case's folder or is no file."""
        folder = Path(self.folder).resolve()
        try:
            path = (folder / image.path).resolve()
            is_file = path.is_file()
        except (OSError, ValueError, RuntimeError) as error:  # a name too long, a zero byte, a loop of links
            raise CaseError(f"Image path {image.path[:200]!r} of case {self.id!r} cannot be used: {error}.") from error
        if Path(image.path).is_absolute() or not path.is_relative_to(folder):
            raise CaseError(
                f"Image path {image.path!r} of case {self.id!r} leaves the case's folder {folder}; "
                "put the picture beside the case file and name it relative to that."
            )
        if not is_file:
            raise CaseError(f"Image {image.path!r} of case {self.id!r} is not a file in {folder}; put it there.")
        return path


def _check_image(where: str, image: ImageCondition, frames: int) -> None:
    if not 0 <= image.frame_idx < frames:
        raise CaseError(f"{where}.frame_idx is {image.frame_idx}; wanted 0 to {frames - 1}.")
    if not 0.0 <= image.strength <= 1.0:
        raise CaseError(f"{where}.strength is {image.strength}; wanted 0 to 1.")
    if not 0 <= image.crf <= 51:
        raise CaseError(f"{where}.crf is {image.crf}; H.264 takes 0 (round trip skipped) to 51.")


def _check_guider(where: str, guider: Guider) -> None:
    for name in ("cfg_scale", "stg_scale", "rescale_scale", "modality_scale"):
        if not math.isfinite(getattr(guider, name)):
            raise CaseError(f"{where}.{name} is {getattr(guider, name)}; wanted a finite number.")
    if not 0 <= guider.skip_step <= MAX_STEPS:
        raise CaseError(f"{where}.skip_step is {guider.skip_step}; wanted 0 (never skip) to {MAX_STEPS}.")
    if any(not 0 <= block < MAX_BLOCKS for block in guider.stg_blocks):
        raise CaseError(f"{where}.stg_blocks is {list(guider.stg_blocks)}; wanted block numbers from 0.")


def parse_case(text: str, folder: Path, overrides: Mapping[str, Any] | None = None) -> Case:
    """Build a case from TOML text, with dotted keys (`request.seed`) overridden.

    Raises: CaseError naming the line, key or value that is wrong.
    """
    try:
        document = tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # not every refusal of the parser is a TOMLDecodeError
        raise CaseError(f"The case is not valid TOML: {error}.") from error
    for key, value in (overrides or {}).items():
        _override(document, key, value)
    if "folder" in document:
        raise CaseError("The case has an unknown key 'folder'; remove it.")
    import msgspec  # a runner's own interpreter need not have it, see `runners.strict`

    try:
        return msgspec.convert({**document, "folder": str(folder)}, Case, strict=True)
    except msgspec.ValidationError as error:
        if isinstance(error.__cause__, CaseError):
            raise error.__cause__ from None
        raise CaseError(f"The case does not fit its form: {error}. README.md shows every key with its type.") from error


def load_case(path: Path, overrides: Mapping[str, Any] | None = None) -> Case:
    """Read a case file. Raises: CaseError."""
    if not path.is_file():
        raise CaseError(f"No case file at {path}; pass a path to a TOML file or an id under golden/.")
    if path.stat().st_size > MAX_CASE_BYTES:
        raise CaseError(f"{path} has {path.stat().st_size} bytes; a case file has at most {MAX_CASE_BYTES}.")
    try:
        text = path.read_text(encoding="utf-8")
    except (UnicodeDecodeError, OSError) as error:
        raise CaseError(f"{path} cannot be read as UTF-8 text ({error}); a case is a TOML file.") from error
    return parse_case(text, path.parent, overrides)


def _override(document: dict[str, Any], key: str, value: Any) -> None:
    *tables, last = key.split(".")
    table: Any = document
    for name in tables:
        table = table.setdefault(name, {}) if isinstance(table, dict) else None
    if not isinstance(table, dict) or not last:
        raise CaseError(f"Override {key!r} does not name a key of the case, such as request.seed.")
    table[last] = value


def case_document(case: Case) -> dict[str, Any]:
    """The case as JSON data, equal to what reading it back from JSON gives, without the folder it was read from."""
    import msgspec

    document: dict[str, Any] = json.loads(msgspec.json.encode(case))
    document.pop("folder")
    return document


def case_of(document: Mapping[str, Any], folder: str) -> Case:
    """The case that `case_document` was made of. Its form is trusted; what strangers wrote goes to `parse_case`."""
    request, guidance = document["request"], document["guidance"]
    images = tuple(ImageCondition(**image) for image in request["images"])
    guiders = {
        modality: Guider(**{**guider, "stg_blocks": tuple(guider["stg_blocks"])})
        for modality, guider in guidance.items()
    }
    parts = {
        "request": Request(**{**request, "images": images}),
        "guidance": Guidance(**guiders),
        "switches": Switches(**document["switches"]),
        "folder": folder,
    }
    return Case(**{**document, **parts})
