"""Why diffusers leaves the official model: one trial, from data-flow order to numbers, for docs/diffusers.md.

    python bench/diffusers_causes.py --weights DIR [--case golden/tiny_ti2v/case.toml] [--dtype bf16] [--alone]

The case runs officially, then with diffusers while one departure after another is taken away by patches that exist
only here. Each line is a relative L2 distance from the official run. With --alone, each departure is then left in by
itself, all others taken away.
"""

import argparse
import functools
import importlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor

from runners.case import Case, load_case
from runners.clock import Quiet
from runners.diffusers.components import build_components
from runners.diffusers.observe import Observer
from runners.diffusers.runner import DiffusersRunner
from runners.official.compat import prepare_imports
from runners.official.runner import OfficialRunner
from runners.protocol import DTYPES, RunOptions
from runners.tap import listening
from runners.weights import WeightsFolder

Taps = dict[str, Tensor]
SHOWN = (
    "connector/pos/video",
    "image/0/latent",
    "init/video",
    "init/audio",
    "denoise/000/cond/block/00/video/self_attn",
    "denoise/000/cond/block/03/video/out",
    "denoise/000/cond/block/03/audio/out",
    "denoise/000/cond/x0/video",
    "denoise/000/cond/x0/audio",
    "denoise/000/guided/video",
    "denoise/000/guided/audio",
    "denoise/000/latent/video",
    "denoise/000/latent/audio",
    "video_latent",
    "audio_latent",
    "decode/frames",
    "decode/mel",
    "decode/waveform",
)
TRANSFORMER = "diffusers.models.transformers.transformer_ltx2"


def main() -> None:
    """Run and print everything."""
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--weights", type=Path, required=True)
    arguments.add_argument("--case", type=Path, default=Path("golden/tiny_ti2v/case.toml"))
    arguments.add_argument("--dtype", choices=list(DTYPES), default="bf16")
    arguments.add_argument("--keep", type=Path, help="Where to keep the official taps between calls.")
    arguments.add_argument("--alone", action="store_true", help="Then leave each departure in alone.")
    arguments.add_argument("--from", dest="first", type=int, default=0, help="How many departures to start without.")
    arguments.add_argument("--pictures", action="store_true", help="Only compare preparations of the picture.")
    arguments.add_argument("--to", dest="last", type=int, help="How many departures to end without.")
    given = arguments.parse_args()
    prepare_imports()
    case, weights = load_case(given.case), WeightsFolder(given.weights)
    options = RunOptions(device=torch.device("cpu"), dtype=DTYPES[given.dtype])
    if given.keep and given.keep.exists():
        official = torch.load(given.keep)
    else:
        official = taps_of(OfficialRunner(weights, options), case)
        if given.keep:
            torch.save(official, given.keep)
    if given.pictures:
        pictures(official, case, weights)
        return
    causes = Causes(official, case, options.dtype)
    names = list(causes.all)
    for count in range(given.first, (len(names) if given.last is None else given.last) + 1):
        found = variant(weights, options, case, causes, names[:count])
        report(f"without: {', '.join(names[:count]) or 'nothing, as it is'}", official, found)
    for name in names if given.alone else ():
        found = variant(weights, options, case, causes, [other for other in names if other != name])
        report(f"only: {name}", official, found)


def variant(weights: WeightsFolder, options: RunOptions, case: Case, causes: "Causes", away: list[str]) -> Taps:
    """Taps of a diffusers run with some departures taken away."""
    with ExitStack() as stack:
        for name in away:
            stack.enter_context(causes.all[name]())
        return taps_of(DiffusersRunner(weights, options), case)


def taps_of(runner: Any, case: Case) -> Taps:
    """All taps of a run, and its final latents."""
    taps: Taps = {}
    with runner as entered, listening(lambda name, tensor: taps.__setitem__(name, tensor.detach().clone())):
        outcome = entered.run(case, Quiet())
    return {**taps, "video_latent": outcome.video_latent, "audio_latent": outcome.audio_latent}


def report(title: str, official: Taps, found: Taps) -> None:
    """Print relative L2 distances from the official run."""
    common = [name for name in official if name in found and not name.startswith("image/")]
    apart = [name for name in common if not torch.equal(official[name].double(), found[name].double())]
    print(f"\n## {title}\n{len(apart)} of {len(common)} taps behind the picture differ")
    for name in SHOWN:
        if name in official and name in found:
            a, b = official[name].double(), found[name].double()
            print(f"{name:45s} {float((b - a).norm() / a.norm()):.1e}", flush=True)


def pictures(official: Taps, case: Case, weights: WeightsFolder) -> None:
    """Print what becomes of the latent of a picture that is prepared in one way or another."""
    load = importlib.import_module("ltx_pipelines.utils.media_io").load_image_conditioning
    image, request = case.request.images[0], case.request
    path, sides = str(case.image_path(image)), {"height": request.height, "width": request.width}
    processor = importlib.import_module("diffusers.video_processor").VideoProcessor(resample="bilinear")
    plain = importlib.import_module("diffusers.utils").load_image(path)
    cpu, fp32 = torch.device("cpu"), torch.float32
    prepared = {
        "official": load(path, **sides, dtype=fp32, device=cpu, crf=image.crf),
        "official but for the compression": load(path, **sides, dtype=fp32, device=cpu, crf=0),
        "diffusers": processor.preprocess(plain, **sides)[:, :, None],
        "diffusers, made to crop": processor.preprocess(plain, **sides, resize_mode="crop")[:, :, None],
    }
    vae = build_components(weights, cpu, fp32)["vae"]
    for name, pixels in prepared.items():
        with torch.no_grad():
            latent = vae.encode(pixels).latent_dist.mode()
        latent = (latent - vae.latents_mean.view(-1, 1, 1, 1)) / vae.latents_std.view(-1, 1, 1, 1)
        wanted = official["image/0/latent"].double()
        print(f"picture, {name:36s} {float((latent - wanted).norm() / wanted.norm()):.1e}", flush=True)


class Causes:
    """Every known departure, as a context in which diffusers does what the official code does."""

    def __init__(self, official: Taps, case: Case, dtype: torch.dtype) -> None:
        self.official, self.case, self.dtype = official, case, dtype
        self.pipeline: Any = importlib.import_module("diffusers").LTX2ImageToVideoPipeline
        self.all: dict[str, Callable[[], Any]] = {  # in the order of the data flow
            "rotary": self.rotary,
            "picture": self.picture,
            "noise": self.noise,
            "positions": self.positions,
            "sigmas": self.sigmas,
            "masks and norms": self.masks_and_norms,
            "batch": self.batch,
            "layout": self.layout,
            "x0 of the picture": self.x0_of_the_picture,
            "fp32 loop": self.fp32_loop,
            "rescale": self.rescale,
            "bytes": self.bytes,
            "audio statistics": self.audio_statistics,
            "resampling filter": self.resampling_filter,
            "vocoder clamp": self.vocoder_clamp,
        }

    @contextmanager
    def picture(self) -> Iterator[None]:
        """Compressed at its CRF, resized and cropped, instead of squeezed into the frame."""
        load = importlib.import_module("ltx_pipelines.utils.media_io").load_image_conditioning
        image, request = self.case.request.images[0], self.case.request
        official = load(
            image_path=str(self.case.image_path(image)),
            height=request.height,
            width=request.width,
            dtype=self.dtype,
            device=torch.device("cpu"),
            crf=image.crf,
        )
        processor = importlib.import_module("diffusers.video_processor").VideoProcessor
        with patch.object(processor, "preprocess", lambda *_, **__: official[:, :, 0]):
            yield

    @contextmanager
    def noise(self) -> Iterator[None]:
        """The official initial latents: drawn token by token in the run's dtype."""

        def prepare_latents(original: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
            _, mask = original(*arguments, **options)
            return self.official["init/video"].float(), mask

        with (
            wrapping(self.pipeline, "prepare_latents", prepare_latents),
            patch.object(self.pipeline, "prepare_audio_latents", lambda *_, **__: self.official["init/audio"].float()),
        ):
            yield

    @contextmanager
    def x0_of_the_picture(self) -> Iterator[None]:
        """Tokens of the picture have timestep 0, so their x0 is what they are."""

        def convert(
            original: Callable[..., Tensor], pipeline: Any, sample: Tensor, velocity: Tensor, *rest: Any
        ) -> Tensor:
            if rest[1] is pipeline.scheduler:
                frames = (self.case.request.num_frames - 1) // 8 + 1
                velocity = velocity.clone()
                velocity[:, : velocity.shape[1] // frames] = 0
            return original(pipeline, sample, velocity, *rest)

        with wrapping(self.pipeline, "convert_velocity_to_x0", convert):
            yield

    @contextmanager
    def sigmas(self) -> Iterator[None]:
        """The official schedule, bit for bit; the timestep is the same product."""
        schedule = importlib.import_module("ltx_core.components.schedulers").LTX2Scheduler()
        scheduler = importlib.import_module("diffusers").FlowMatchEulerDiscreteScheduler

        def set_timesteps(original: Callable[..., None], this: Any, count: int | None = None, **options: Any) -> None:
            original(this, count, **options)
            this.sigmas = schedule.execute(steps=self.case.request.num_inference_steps)
            this.timesteps = this.sigmas[:-1] * 1000

        with wrapping(scheduler, "set_timesteps", set_timesteps):
            yield

    @contextmanager
    def positions(self) -> Iterator[None]:
        """Video positions rounded to the run's dtype, as release 1.0.0 keeps them."""
        rotary = importlib.import_module(TRANSFORMER).LTX2AudioVideoRotaryPosEmbed
        rounded = lambda original, *arguments, **options: original(*arguments, **options).to(self.dtype)  # noqa: E731
        with wrapping(rotary, "prepare_video_coords", rounded):
            yield

    @contextmanager
    def rotary(self) -> Iterator[None]:
        """Rotary tables rounded to the run's dtype and applied in it, in the transformer and the connectors."""
        module = importlib.import_module(TRANSFORMER)
        apply = importlib.import_module("ltx_core.model.transformer.rope").apply_split_rotary_emb
        rounded = lambda x, tables: apply(x, *(table.to(x.dtype) for table in tables))  # noqa: E731
        with patch.object(module, "apply_split_rotary_emb", rounded):
            yield

    @contextmanager
    def masks_and_norms(self) -> Iterator[None]:
        """No text mask in the transformer, where all tokens are valid; torch's own RMS norm in its blocks."""
        module = importlib.import_module(TRANSFORMER)
        norm_class = importlib.import_module("diffusers.models.normalization").RMSNorm

        def forward(original: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
            without = {"encoder_attention_mask": None, "audio_encoder_attention_mask": None}
            return original(*arguments, **{**options, **without})

        def norm(this: Any, x: Tensor) -> Tensor:
            return torch.nn.functional.rms_norm(x, (x.shape[-1],), weight=this.weight, eps=this.eps)

        with (
            wrapping(module.LTX2VideoTransformer3DModel, "forward", forward),
            patch.object(norm_class, "forward", norm),
        ):
            yield

    @contextmanager
    def batch(self) -> Iterator[None]:
        """Negative and positive prompt one after the other, in the transformer and in the connectors."""
        module = importlib.import_module(TRANSFORMER)
        connectors = importlib.import_module("diffusers.pipelines.ltx2").LTX2TextConnectors

        def split(value: Any, index: int) -> Any:
            return value[index : index + 1] if isinstance(value, Tensor) and value.ndim and len(value) == 2 else value

        def block(original: Callable[..., Any], this: Any, **options: Any) -> Any:
            def part(index: int) -> dict[str, Any]:
                return {
                    name: tuple(split(item, index) for item in value)
                    if isinstance(value, tuple)
                    else split(value, index)
                    for name, value in options.items()
                }

            if len(options["hidden_states"]) == 1:
                return original(this, **options)
            halves = [original(this, **part(index)) for index in range(2)]
            return tuple(torch.cat(streams) for streams in zip(*halves, strict=True))

        def connect(original: Callable[..., Any], this: Any, states: Tensor, mask: Tensor, **options: Any) -> Any:
            halves = [original(this, states[i : i + 1], mask[i : i + 1], **options) for i in range(len(states))]
            return tuple(torch.cat(parts) for parts in zip(*halves, strict=True))

        def branch(original: Callable[..., Any], this: Observer, index: int, name: str) -> Any:
            hook = original(this, index, name)
            return lambda *call: hook(*call) if len(call[2]) == len(this._passes) else None  # halves are not tapped

        with (
            wrapping(Observer, "_branch", branch),
            wrapping(module.LTX2VideoTransformerBlock, "forward", block),
            wrapping(connectors, "forward", connect),
        ):
            yield

    @contextmanager
    def layout(self) -> Iterator[None]:
        """Latents contiguous in memory; packed ones are a transposed view, whose product is rounded otherwise."""
        model = importlib.import_module(TRANSFORMER).LTX2VideoTransformer3DModel

        def forward(original: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
            return original(*arguments, **{**options, "hidden_states": options["hidden_states"].contiguous()})

        with wrapping(model, "forward", forward):
            yield

    @contextmanager
    def fp32_loop(self) -> Iterator[None]:
        """x0, guided prediction and latents rounded to the run's dtype wherever the official loop rounds them."""
        scheduler = importlib.import_module("diffusers").FlowMatchEulerDiscreteScheduler

        def rounded(original: Callable[..., Tensor], *arguments: Any, **options: Any) -> Tensor:
            return original(*arguments, **options).to(self.dtype)

        def step(original: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
            return tuple(value.to(self.dtype).float() for value in original(*arguments, **options))

        def to_velocity(original: Callable[..., Tensor], this: Any, sample: Tensor, x0: Tensor, *rest: Any) -> Tensor:
            return original(this, sample, x0.float(), *rest).to(self.dtype).float()

        with (
            wrapping(self.pipeline, "convert_velocity_to_x0", rounded),
            wrapping(self.pipeline, "convert_x0_to_velocity", to_velocity),
            wrapping(scheduler, "step", step),
        ):
            yield

    @contextmanager
    def rescale(self) -> Iterator[None]:
        """Guidance rescaled by one factor, instead of mixing a rescaled and a plain prediction."""

        def rescaled(guided: Tensor, cond: Tensor, guidance_rescale: float) -> Tensor:
            return guided * (guidance_rescale * (cond.std() / guided.std()) + (1 - guidance_rescale))

        with patch(f"{self.pipeline.__module__}.rescale_noise_cfg", rescaled):
            yield

    @contextmanager
    def bytes(self) -> Iterator[None]:
        """Frames truncated to bytes instead of rounded."""
        processor = importlib.import_module("diffusers.video_processor").VideoProcessor

        def truncated(original: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
            return (original(*arguments, **options) * 255).astype("uint8") / 255

        with wrapping(processor, "postprocess_video", truncated):
            yield

    @contextmanager
    def audio_statistics(self) -> Iterator[None]:
        """Audio latents brought back to their own scale in the run's dtype instead of fp32."""

        def denormalized(latents: Tensor, mean: Tensor, std: Tensor) -> Tensor:
            return latents.to(self.dtype) * std + mean

        with patch.object(self.pipeline, "_denormalize_audio_latents", staticmethod(denormalized)):
            yield

    @contextmanager
    def resampling_filter(self) -> Iterator[None]:
        """The resampling filter computed in fp32 and then rounded, instead of computed in the run's dtype."""
        upsample = importlib.import_module("diffusers.pipelines.ltx2.vocoder").UpSample1d

        def init(original: Callable[..., None], this: Any, *arguments: Any, **options: Any) -> None:
            before = torch.get_default_dtype()
            torch.set_default_dtype(torch.float32)
            try:
                original(this, *arguments, **options)
            finally:
                torch.set_default_dtype(before)

        with wrapping(upsample, "__init__", init):
            yield

    @contextmanager
    def vocoder_clamp(self) -> Iterator[None]:
        """The first generator's waveform clamped to [-1, 1] before its band is extended."""
        vocoder = importlib.import_module("diffusers.pipelines.ltx2.vocoder").LTX2VocoderWithBWE

        def init(original: Callable[..., None], this: Any, *arguments: Any, **options: Any) -> None:
            original(this, *arguments, **options)
            this.vocoder.final_act_fn = "clamp"

        with wrapping(vocoder, "__init__", init):
            yield


@contextmanager
def wrapping(owner: Any, name: str, wrapper: Callable[..., Any]) -> Iterator[None]:
    """While inside, calls of a method go to `wrapper`, which gets the original first."""
    original = getattr(owner, name)

    @functools.wraps(original)  # diffusers reads the signature of some
    def wrapped(*arguments: Any, **options: Any) -> Any:
        return wrapper(original, *arguments, **options)

    with patch.object(owner, name, wrapped):
        yield


if __name__ == "__main__":
    main()
