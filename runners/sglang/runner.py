"""The `sglang` runner: SGLang 0.5.23's LTX-2.3 one-stage pipeline, executed by its own loaders, stages and executor.

It runs in SGLang's own environment (`--runner-python`), never here. Nothing is corrected: where SGLang computes
something else than the reference, that is what the harness is to show (docs/engines.md).
"""

import gc
import importlib
import os
import shutil
import socket
import sys
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar, Final, Self

import torch
from torch import Tensor

from runners.case import Case
from runners.clock import Clock, Progress
from runners.errors import OutOfMemoryError, RunnerError
from runners.loaded import WeightSample, look_for, others
from runners.native.request import sampling_params
from runners.protocol import CANDIDATE, Capabilities, Outcome, RunOptions, engine_choices, require_understood
from runners.sglang.files import details, sglang_files
from runners.sglang.layout import TEXT_ENCODER, configurations, materialize, places
from runners.sglang.names import IMAGE_ENCODER
from runners.sglang.observe import SGLangObserver
from runners.sglang.request import GUIDERS, SKIP_V2A, request_keywords, require_as_asked
from runners.stand_ins import without_compiled_torchaudio, without_compiled_torchvision
from runners.tap import tap
from runners.weights import Weights

FOLDER: Final = "parity-components"  # one named as a public repository is taken for it and looked up on its hub
MODEL: Final = "LTX-2.3"  # which SGLang otherwise learns from the folder's name
ENGINE: Final = "sglang.multimodal_gen"
OPTIONS: Final = {
    "quality": ("exact", "lossless"),  # exact: one guidance pass a call; lossless, its served default: all in one
    "autocast": ("off", "on"),  # on is its served default
}  # of the engine, the first of each unless asked otherwise


class SGLangRunner:
    """Executes cases with SGLang."""

    name: ClassVar[str] = "sglang"
    capabilities: ClassVar[Capabilities] = Capabilities(
        switches=frozenset({"skip_v2a_cross_attn_for_video_gt", "disable_autocast"}),
        tiers=frozenset({"exact"}),  # the only way it runs; its qualities are options of the engine
        dtypes=frozenset({torch.bfloat16}),
        releases=frozenset({"1.0.0", "1.1.2"}),  # of 1.2.0 it lacks per-token timesteps and guidance in fp32
        behaviours=False,
        taps=("*",),
        engine_options=frozenset(OPTIONS),
    )

    def __init__(self, weights: Weights, options: RunOptions) -> None:
        self.weights = weights
        self.options = options
        self._place: Path | None = None  # a folder of its own, from entering to leaving

    def require(self, case: Case) -> None:
        """Refuse what SGLang cannot do, before it is imported. Raises: RunnerError saying what, and what to do."""
        require_understood(self.name, self.capabilities, case, self.options)
        self._chosen()
        request_keywords(case)
        configurations(self.weights)

    def __enter__(self) -> Self:
        """Import SGLang and write the checkpoint in its layout. Raises: RunnerError if SGLang is not installed here."""
        self._place = place = Path(tempfile.mkdtemp(prefix="parity-sglang-"))
        os.environ["SGLANG_DIFFUSION_CACHE_ROOT"] = str(place / "cache")  # it keeps converted weights there
        try:
            prepare_process(self.options.device)
            importlib.import_module(f"{ENGINE}.runtime.pipelines.ltx_2_pipeline")
            materialize(self.weights, place / FOLDER)
        except ImportError as error:
            shutil.rmtree(place, ignore_errors=True)
            raise RunnerError(
                f"SGLang cannot be imported by {sys.executable} ({error}); docs/engines.md says what to install, and "
                "--runner-python names the interpreter that has it."
            ) from error
        except BaseException:
            shutil.rmtree(place, ignore_errors=True)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._place is not None:
            shutil.rmtree(self._place, ignore_errors=True)
        gc.collect()
        if self.options.device.type == "cuda":
            torch.cuda.empty_cache()

    def run(self, case: Case, progress: Progress) -> Outcome:
        """Execute a case. Raises: RunnerError for what SGLang cannot be asked."""
        self.require(case)
        engine, keywords = self._chosen(), request_keywords(case)
        clock = Clock(self.options.device, progress)
        clock.begin("text_encoding")
        with clock.loading():
            server, pipeline = self._load(case.switches.disable_autocast and engine["autocast"] == "off")
        request = engine_request(server, keywords | {"quality": engine["quality"]})
        require_as_asked(request, sampling_params(case))
        observer = SGLangObserver(pipeline, clock, case)
        try:
            with observer.attached(), torch.no_grad():
                output = pipeline.forward(request, server)
        except torch.OutOfMemoryError as error:
            raise OutOfMemoryError(f"{self.options.device} ran out of memory in the SGLang run ({error}).") from error
        clock.end()
        files, loaded = sglang_files(), self._loaded(pipeline)
        frames = _frames(output.output[0])
        waveform: Tensor = output.audio[0].float().cpu()
        tap("decode/frames", frames)
        tap("decode/waveform", waveform)
        assert observer.video_latent is not None and observer.audio_latent is not None and observer.sigmas is not None
        return Outcome(
            video_frames=frames,
            audio_waveform=waveform,
            video_latent=observer.video_latent.to(self.options.dtype),
            audio_latent=observer.audio_latent.to(self.options.dtype),
            frame_rate=case.request.frame_rate,
            sample_rate_hz=int(output.audio_sample_rate),
            sigmas=observer.sigmas,
            stage_s=clock.stage_s,
            step_s=clock.step_s(),
            peak_bytes=clock.peak_bytes(),
            details={
                **details(files),
                CANDIDATE: [files.words, *(f"{name} {value}" for name, value in engine.items()), *others(loaded)],
                "loaded": {component: found.document() for component, found in loaded.items()},
                "pipeline": type(pipeline).__name__,
                "quality": request.quality,
                "autocast": not server.disable_autocast,
                "transformer_calls_a_step": observer.calls_a_step,
                "request_extra": {name: request.extra[name] for name in (GUIDERS, SKIP_V2A) if name in request.extra},
            },
        )

    def _chosen(self) -> dict[str, str]:
        return engine_choices("SGLang", OPTIONS, self.options.engine)

    def _load(self, disable_autocast: bool) -> tuple[Any, Any]:
        """SGLang's arguments of a server and its pipeline, loaded."""
        assert self._place is not None, "a runner is entered before it runs"
        folder = str(self._place / FOLDER)
        arguments = importlib.import_module(f"{ENGINE}.runtime.server_args")
        server = arguments.ServerArgs.from_kwargs(
            model_path=folder,
            model_id=MODEL,
            num_gpus=1,
            disable_autocast=disable_autocast,
            trust_remote_code=False,  # which its loader of the text encoder does not ask: see `runners.model_files`
            log_level="error",
        )
        arguments.set_global_server_args(server)
        parallel = importlib.import_module(f"{ENGINE}.runtime.distributed.parallel_state")
        parallel.maybe_init_distributed_environment_and_model_parallel(tp_size=1, sp_size=1)
        pipeline_class = importlib.import_module(f"{ENGINE}.runtime.pipelines.ltx_2_pipeline").LTX2Pipeline
        return server, pipeline_class(folder, server)

    def _loaded(self, pipeline: Any) -> dict[str, WeightSample]:
        """The part of the checkpoint that its components hold."""
        stages = {type(stage).__name__: stage for stage in pipeline.stages}
        modules = {**pipeline.modules, IMAGE_ENCODER: stages["LTX2ImageEncodingStage"]._condition_image_encoder}
        found = {
            component: look_for(modules[component], self.weights.model, list(keys.values()))
            for component, keys in places(self.weights.model.shapes).items()
            if modules[component] is not None  # the encoder of pictures is loaded when there is one
        }
        gemma = [name for name in self.weights.gemma.shapes if name.startswith("language_model.")]
        return {**found, TEXT_ENCODER: look_for(modules[TEXT_ENCODER], self.weights.gemma, gemma)}


def engine_request(server: Any, keywords: dict[str, Any]) -> Any:
    """SGLang's own request of keywords of its sampling parameters, made as its server makes it."""
    sampling = importlib.import_module(f"{ENGINE}.configs.sample.ltx_2").LTX23SamplingParams
    params = sampling(**keywords, save_output=False, return_file_paths_only=False)
    params._adjust(server)
    return importlib.import_module(f"{ENGINE}.runtime.entrypoints.utils").prepare_request(server, params)


def prepare_process(device: torch.device) -> None:
    """The settings of this process that importing SGLang and its one-process group of workers want."""
    if device.type == "cpu":
        os.environ.setdefault("SGLANG_DIFFUSION_PLATFORM_OVERRIDE", "cpu")
        if not torch.cuda.is_available():
            without_compiled_torchaudio()
            without_compiled_torchvision()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    group = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1"}
    for name, value in ({"HF_HUB_OFFLINE": "1"} | group).items():
        os.environ.setdefault(name, value)


def _frames(sample: Any) -> Tensor:
    """One clip as SGLang turns it into bytes: uint8 (F, H, W, 3)."""
    numpy = importlib.import_module("numpy")
    to_bytes = importlib.import_module(f"{ENGINE}.runtime.entrypoints.utils")._sample_to_uint8_frames
    return torch.from_numpy(numpy.stack(to_bytes(sample)))
