"""A case: one recorded request for video with sound, read from a TOML file that may come from a stranger.

The file's tables are `[request]`, `[[request.images]]`, `[guidance.video]`, `[guidance.audio]`, `[switches]` and
`[[loras]]` and `[stages]`; golden/tiny_ti2v/case.toml has every key but those of `[[loras]]` and `quantization`, which
docs/verbs.md shows, and of `[stages]`, which docs/pipelines.md does. Unknown or missing keys and wrong types are
errors, and no path may leave the case's folder.
"""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from runners.errors import CaseError
from runners.load import MAX_KEY_PARTS, parse_toml, read_text
from runners.nearest import did_you_mean
from runners.pictures import picture_file
from runners.releases import REFERENCES
from runners.request import Guider, ImageCondition, Lora, check_guider, check_loras, check_request
from runners.stages import PIPELINES, Stage, StagePlan, Stages, check_stages, pipeline_named, plan_stages
from runners.strict import Strict

NOT_IN_FILES = frozenset({"folder", "lora_files"})  # keys that say where a case's files lie
MAX_CASE_BYTES = 1 << 17  # a case is prose and numbers; a prompt is cut at 1024 tokens
Quantization = Literal["fp8_cast", "fp8_scaled_mm"]
CASE_ID = r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}"  # also the name of a folder under golden/


class Request(Strict, frozen=True, kw_only=True):
    """The request to the model."""

    prompt: str
    negative_prompt: str | None = None  # None: the official default of the reference release
    seed: int
    height: int  # pixels
    width: int  # pixels
    num_frames: int
    frame_rate: float  # frames per second
    num_inference_steps: int
    images: tuple[ImageCondition, ...] = ()


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
    pipeline: str  # one of `runners.stages.PIPELINES`
    reference: str = "1.0.0"
    request: Request
    guidance: Guidance
    switches: Switches = Switches()
    stages: Stages = Stages()
    loras: tuple[Lora, ...] = ()  # fused into the transformer, in this order
    quantization: Quantization | None = None  # how the transformer's weights are kept; None: in the run's dtype
    folder: str = ""
    lora_files: tuple[str, ...] = ()  # files given on the command line; a LoRA of the name of one is that file

    def __post_init__(self) -> None:
        """Refuse what the model cannot run. Raises: CaseError."""
        if not re.fullmatch(CASE_ID, self.id):
            raise CaseError(f"A case id is letters, digits, '_', '.' and '-', at most 100; got {self.id!r}.")
        pipeline_named(self.pipeline)
        if self.reference not in REFERENCES:  # becomes the name of a folder
            raise CaseError(
                f"Case {self.id!r} follows {self.reference[:40]!r}, no release that is known here; wanted one of "
                f"{', '.join(REFERENCES)}."
            )
        whose = f"Case {self.id!r}"
        check_request(whose, "request.", self.request)
        check_guider(f"{whose}: guidance.video", self.guidance.video)
        check_guider(f"{whose}: guidance.audio", self.guidance.audio)
        check_loras(whose, self.loras)
        check_stages(whose, self.pipeline, self.stages, self.request, self.guidance.video, self.guidance.audio)

    @property
    def plans(self) -> tuple[StagePlan, ...]:
        """The stages that the request goes through, one or two."""
        return plan_stages(self.pipeline, self.stages, self.request, self.guidance.video, self.guidance.audio)

    @property
    def total_steps(self) -> int:
        """Denoising steps of all stages, as taps count them."""
        return sum(plan.evaluations for plan in self.plans)

    def image_path(self, image: ImageCondition) -> Path:
        """The path of a condition's picture, beside the case file or one that cases share.

        Raises: CaseError if the path leaves the case's folder or is no file.
        """
        self.image_place(image)  # which refuses a path that leaves
        folder = Path(self.folder).resolve()
        path = picture_file(folder, image.path)
        if not path.is_file():
            raise CaseError(f"Image {image.path!r} of case {self.id!r} is not a file in {folder}; put it there.")
        return path.resolve()

    def image_place(self, image: ImageCondition) -> Path:
        """The path beside the case file that a condition's picture has, there or not.

        Raises: CaseError if that is not in the case's folder.
        """
        return self._place("Image", image.path, "picture")

    def lora_place(self, lora: Lora) -> Path:
        """The path beside the case file that a LoRA has, there or not, or the file given for it on the command line.

        Raises: CaseError if that is not in the case's folder.
        """
        given = next((Path(file) for file in self.lora_files if Path(file).name == lora.path), None)
        return given or self._place("LoRA", lora.path, "LoRA")

    def _place(self, kind: str, name: str, what: str) -> Path:
        folder = Path(self.folder).resolve()
        try:
            path = (folder / name).resolve()
            path.exists()  # some systems tell only now that there can be no such path
        except (OSError, ValueError, RuntimeError) as error:  # a name too long, a zero byte, a loop of links
            raise CaseError(f"{kind} path {name[:200]!r} of case {self.id!r} cannot be used: {error}.") from error
        if Path(name).is_absolute() or not path.is_relative_to(folder):
            raise CaseError(
                f"{kind} path {name!r} of case {self.id!r} leaves the case's folder {folder}; "
                f"put the {what} beside the case file and name it relative to that."
            )
        return path


def parse_case(text: str, folder: Path, overrides: Mapping[str, Any] | None = None) -> Case:
    """Build a case from TOML text, with dotted keys (`request.seed`) overridden.

    Raises: CaseError naming the line, key or value that is wrong.
    """
    document = parse_toml(text, "The case", CaseError, "`parity init --case tiny_ti2v` copies one with every key")
    for key, value in (overrides or {}).items():
        _override(document, key, value)
    for key in NOT_IN_FILES & document.keys():
        raise CaseError(f"The case has an unknown key {key!r}; remove it.")
    _fill_in(document)
    import msgspec  # a runner's own interpreter need not have it, see `runners.strict`

    try:
        return msgspec.convert({**document, "folder": str(folder)}, Case, strict=True)
    except msgspec.ValidationError as error:
        if isinstance(error.__cause__, CaseError):
            raise error.__cause__ from None
        raise CaseError(
            f"The case does not fit its form: {error}. The case tiny_ti2v has each key, and `parity init --case "
            f"tiny_ti2v` copies it.{_meant(document)}"
        ) from error


def _fill_in(document: dict[str, Any]) -> None:
    """Fill in what the pipeline decides: no guidance, and the number of steps between fixed noise levels."""
    name, request = document.get("pipeline"), document.get("request")
    pipeline = PIPELINES.get(name) if isinstance(name, str) else None
    if pipeline is None:
        return
    if not pipeline.guided:
        document.setdefault("guidance", {"video": {}, "audio": {}})
    sigmas: Any = document.get("stages")
    for key in ("first", "sigmas"):
        sigmas = sigmas.get(key) if isinstance(sigmas, dict) else None
    sigmas = sigmas or pipeline.sigmas
    if isinstance(request, dict) and isinstance(sigmas, list | tuple):
        request.setdefault("num_inference_steps", len(sigmas) - 1)


def _meant(document: Mapping[str, Any]) -> str:
    """The known key that the first unknown one of a case is nearest to."""
    forms = {"": Case, "request": Request, "guidance": Guidance, "switches": Switches}
    forms |= {"request.images": ImageCondition, "guidance.video": Guider, "guidance.audio": Guider, "loras": Lora}
    forms |= {"stages": Stages, "stages.first": Stage, "stages.second": Stage}
    for table, form in forms.items():
        value: Any = document
        for part in table.split(".") if table else ():
            value = value.get(part) if isinstance(value, dict) else None
        for item in value if isinstance(value, list) else [value]:
            for key in item if isinstance(item, dict) else ():
                if key not in form.__annotations__:
                    return did_you_mean(key, form.__annotations__)
    return ""


def load_case(path: Path, overrides: Mapping[str, Any] | None = None) -> Case:
    """Read a case file. Raises: CaseError."""
    text = read_text(path, CaseError, "pass the path of a TOML file or an id under golden/", max_bytes=MAX_CASE_BYTES)
    return parse_case(text, path.parent, overrides)


def _override(document: dict[str, Any], key: str, value: Any) -> None:
    *tables, last = key.split(".")
    if len(tables) >= MAX_KEY_PARTS:
        raise CaseError(f"Override {key[:100]!r} has {len(tables) + 1} parts; no key of a case has so many.")
    table: Any = document
    for name in tables:
        table = table.setdefault(name, {}) if isinstance(table, dict) else None
    if not isinstance(table, dict) or not last:
        raise CaseError(f"Override {key!r} does not name a key of the case, such as request.seed.")
    table[last] = value


def case_document(case: Case) -> dict[str, Any]:
    """The case as JSON data, equal to what reading it back from JSON gives, without the places of its files.

    LoRAs, quantization and stages are there only where a case has them: runs recorded before there were any stay equal.
    """
    import msgspec

    document: dict[str, Any] = json.loads(msgspec.json.encode(case))
    absent = {name for name in ("loras", "quantization") if not document[name]}
    if case.stages == Stages():
        absent.add("stages")
    return {name: value for name, value in document.items() if name not in NOT_IN_FILES | absent}


def case_text(case: Case) -> str:
    """The case as TOML text that `parse_case` makes the same case of, given the same folder."""
    import tomli_w

    document = case_document(case)
    request = document["request"]
    if request["negative_prompt"] is None:  # TOML has no null
        del request["negative_prompt"]
    if not request["images"]:
        del request["images"]
    for stage in document.get("stages", {}).values():
        for key in [key for key, value in stage.items() if value is None]:
            del stage[key]
    return tomli_w.dumps(document)


def case_of(document: Mapping[str, Any], folder: str, lora_files: Sequence[str] = ()) -> Case:
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
        "stages": Stages(**{name: _stage_of(stage) for name, stage in document.get("stages", {}).items()}),
        "loras": tuple(Lora(**lora) for lora in document.get("loras", ())),
        "folder": folder,
        "lora_files": tuple(lora_files),
    }
    return Case(**{**document, **parts})


def _stage_of(document: Mapping[str, Any]) -> Stage:
    sigmas = document["sigmas"]
    return Stage(**{**document, "sigmas": None if sigmas is None else tuple(sigmas)})
