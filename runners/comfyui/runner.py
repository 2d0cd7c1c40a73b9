"""The `comfyui` runner: ComfyUI 0.25's own nodes for LTX-2.3, with Lightricks' guider, without its server.

It runs in ComfyUI's own environment and process (`--runner-python`), from a checkout that `--engine-root` names, never
here. The nodes are those that its users connect, given what the case says. Nothing is corrected: where ComfyUI computes
something else than the reference, that is what the harness is to show (docs/engines.md).
"""

import gc
import importlib
import sys
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from runners.case import Case
from runners.clock import Clock, Progress
from runners.comfyui.engine import LIGHTRICKS, Models, import_engine, load_models, load_text_encoder, loaded_of
from runners.comfyui.files import checkout_in, require_checkout
from runners.comfyui.noise import OfficialNoise
from runners.comfyui.observe import SIGNS, ComfyUIObserver
from runners.comfyui.request import OPTIONS, engine_options, guider_values, require_askable
from runners.comfyui.sizes import require_buildable
from runners.errors import OutOfMemoryError, RunnerError
from runners.loaded import others
from runners.native.request import sampling_params
from runners.protocol import CANDIDATE, Capabilities, Outcome, RunOptions, require_understood
from runners.tap import tap
from runners.weights import Weights, WeightsFolder

SHIFTS = {"max_shift": 2.05, "base_shift": 0.95, "stretch": True, "terminal": 0.1}  # the scheduler node's defaults


class ComfyUIRunner:
    """Executes cases with ComfyUI."""

    name: ClassVar[str] = "comfyui"
    capabilities: ClassVar[Capabilities] = Capabilities(
        switches=frozenset({"skip_v2a_cross_attn_for_video_gt"}),
        tiers=frozenset({"exact"}),  # the only way it runs
        dtypes=frozenset({torch.bfloat16, torch.float32}),
        releases=frozenset({"1.0.0", "1.1.2", "1.2.0"}),  # it follows 1.2.0, and runs the same whatever it is held to
        behaviours=False,
        taps=("*",),
        engine_options=frozenset(OPTIONS),
    )

    def __init__(self, weights: Weights, options: RunOptions, root: Path | None) -> None:
        self.weights = weights
        self.options = options
        self._root = root

    def require(self, case: Case) -> None:
        """Refuse what ComfyUI cannot do, before it is imported. Raises: RunnerError saying what, and what to do."""
        require_understood(self.name, self.capabilities, case, self.options)
        engine_options(self.options)
        require_askable(case)
        if self.options.dtype == torch.float32 and self.options.device.type != "cpu":
            raise RunnerError("ComfyUI projects prompts in bf16 on a GPU, so fp32 is for --device cpu there.")
        self._files()
        require_buildable(self.weights)
        require_checkout(self._checkout())

    def __enter__(self) -> Self:
        """Import ComfyUI. Raises: RunnerError if it, or what it needs, is not here."""
        root = self._checkout()
        require_checkout(root)
        try:
            import_engine(root, self.options, engine_options(self.options)["attention"])
        except ImportError as error:
            raise RunnerError(
                f"ComfyUI in {root} cannot be imported by {sys.executable} ({error}); docs/engines.md says what to "
                "install, and --runner-python names the interpreter that has it."
            ) from error
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        gc.collect()
        if self.options.device.type == "cuda":
            torch.cuda.empty_cache()

    def run(self, case: Case, progress: Progress) -> Outcome:
        """Execute a case. Raises: RunnerError for what ComfyUI cannot be asked."""
        self.require(case)
        try:
            with torch.inference_mode():
                return self._run(case, Clock(self.options.device, progress))
        except torch.OutOfMemoryError as error:
            raise OutOfMemoryError(f"{self.options.device} ran out of memory in the ComfyUI run ({error}).") from error

    def _run(self, case: Case, clock: Clock) -> Outcome:
        request, weights, engine = case.request, self._files(), engine_options(self.options)
        observer = ComfyUIObserver(clock, case)
        clock.begin("text_encoding")
        with clock.loading():
            clip = load_text_encoder(weights)
        nodes, lt, audio_nodes = (
            importlib.import_module(name) for name in ("nodes", "comfy_extras.nodes_lt", "comfy_extras.nodes_lt_audio")
        )
        sampling = sampling_params(case)
        encoded = []
        for sign, prompt in zip(SIGNS, (sampling.prompt, sampling.negative_prompt), strict=True):
            with observer.encoding(clip, sign):
                encoded.append(nodes.CLIPTextEncode().encode(clip, prompt)[0])
        positive, negative = lt.LTXVConditioning.execute(*encoded, request.frame_rate).result

        clock.begin("image_conditioning")
        with clock.loading():
            models = load_models(weights, clip)
        video = lt.EmptyLTXVLatentVideo.execute(request.width, request.height, request.num_frames).result[0]
        positive, negative, video = self._with_pictures(case, models, positive, negative, video)

        clock.begin("latent_preparation")
        audio = audio_nodes.LTXVEmptyLatentAudio.execute(
            request.num_frames, int(request.frame_rate), 1, models.audio_vae
        ).result[0]
        latent = lt.LTXVConcatAVLatent.execute(video, audio).result[0]
        sigmas = lt.LTXVScheduler.execute(request.num_inference_steps, **SHIFTS).result[0]
        guider = self._guider(case, models.model)
        guider.set_conds(positive, negative)
        custom, samplers = (
            importlib.import_module(name) for name in ("comfy_extras.nodes_custom_sampler", "comfy.samplers")
        )
        noise = custom.Noise_RandomNoise(request.seed)
        if engine["noise"] == "official":
            noise = OfficialNoise(request.seed, self.options.dtype, self.options.device)
        with observer.denoising(guider, models.model.model.diffusion_model):
            euler = samplers.sampler_object("euler")
            samples = custom.SamplerCustomAdvanced.execute(noise, guider, euler, sigmas, latent).result[0]
        observer.ended(samples["samples"].unbind())
        video, audio = lt.LTXVSeparateAVLatent.execute(samples).result
        video = lt.LTXVCropGuides.execute(positive, negative, video).result[2]

        clock.begin("video_decoding")
        pixels = nodes.VAEDecode().decode(models.vae, video)[0]  # (F, H, W, 3) in 0 to 1
        frames = (pixels * 255).clamp(0, 255).byte().cpu()  # as its SaveVideo makes bytes of them
        tap("decode/frames", frames)
        clock.begin("audio_decoding")
        with observer.decoding_audio(models.audio_vae.first_stage_model):
            sound = audio_nodes.LTXVAudioVAEDecode.execute(audio, models.audio_vae).result[0]
        waveform: Tensor = sound["waveform"][0].float().cpu()
        tap("decode/waveform", waveform)
        clock.end()
        files, loaded = checkout_in(self._checkout()), loaded_of(weights, models)
        return Outcome(
            video_frames=frames,
            audio_waveform=waveform,
            video_latent=video["samples"].to(self.options.dtype),
            audio_latent=audio["samples"].to(self.options.dtype),
            frame_rate=request.frame_rate,
            sample_rate_hz=sound["sample_rate"],
            sigmas=sigmas.float().cpu(),
            stage_s=clock.stage_s,
            step_s=clock.step_s(),
            peak_bytes=clock.peak_bytes(),
            details={
                **files.details(),
                CANDIDATE: [*files.words, *(f"{name} {value}" for name, value in engine.items()), *others(loaded)],
                "loaded": {component: found.document() for component, found in loaded.items()},
                "computed_in": _dtypes(models),
            },
        )

    def _with_pictures(self, case: Case, models: Models, *state: Any) -> tuple[Any, Any, Any]:
        """Both conditionings and the video latent with the pictures: at the first frame in place, elsewhere a guide."""
        nodes, lt = importlib.import_module("nodes"), importlib.import_module("comfy_extras.nodes_lt")
        folders = importlib.import_module("folder_paths")
        positive, negative, video = state
        for index, image in enumerate(case.request.images):
            path = case.image_path(image)
            folders.set_input_directory(str(path.parent))
            pixels = nodes.LoadImage().load_image(path.name)[0]
            pixels = lt.LTXVPreprocess.execute(pixels, image.crf).result[0]
            if image.frame_idx == 0:
                video = lt.LTXVImgToVideoInplace.execute(models.vae, pixels, video, image.strength).result[0]
                encoded = video["samples"][:, :, :1]
            else:
                positive, negative, video = lt.LTXVAddGuide.execute(
                    positive, negative, models.vae, video, pixels, image.frame_idx, image.strength
                ).result
                encoded = video["samples"][:, :, -1:]
            tap(f"image/{index}/latent", encoded)
        return positive, negative, video

    def _guider(self, case: Case, model: Any) -> Any:
        guiders = importlib.import_module(f"{LIGHTRICKS}.guiders.multimodal_guider")
        parameters = importlib.import_module(f"{LIGHTRICKS}.guiders.parameters").GuiderParameters
        values, blocks = guider_values(case)
        return guiders.MultimodalGuider(model, {name: parameters(**keys) for name, keys in values.items()}, blocks)

    def _files(self) -> WeightsFolder:
        if not isinstance(self.weights, WeightsFolder):
            raise RunnerError("ComfyUI loads files; write the weights with `parity forge --out DIR`, and pass DIR.")
        return self.weights

    def _checkout(self) -> Path:
        if self._root is None:
            raise RunnerError(
                "Runner 'comfyui' runs from a checkout; name it with --engine-root. docs/engines.md says which."
            )
        return self._root


def _dtypes(models: Models) -> dict[str, str]:
    """The dtype that ComfyUI chose for each model, where it says one."""
    found = {
        "transformer": models.model.model.manual_cast_dtype or models.model.model.get_dtype(),
        "vae": models.vae.vae_dtype,
        "audio_vae": models.audio_vae.vae_dtype,
    }
    return {name: str(dtype).removeprefix("torch.") for name, dtype in found.items()}
