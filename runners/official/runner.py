"""The `official` runner: Lightricks' own LTX-2.3 code, executed as it is.

Without a root the installed packages of release 1.0.0 run; `official_root` names a checkout of the public repository
instead, which is recognised by the hashes of its files. One small adapter a release generation says how its pipeline is
called and watched; the rest is shared.
"""

import importlib
import traceback
from contextlib import ExitStack
from importlib.metadata import version
from pathlib import Path
from types import TracebackType
from typing import Final, Self, cast

import torch

from runners.case import Case
from runners.clock import Clock, Progress
from runners.errors import OutOfMemoryError, ParityError, RunnerError
from runners.loras import loras_of, stage_loras
from runners.official.compat import prepare_imports, without_cuda_calls
from runners.official.files import PACKAGES, OfficialCode, official_code
from runners.official.importing import import_from
from runners.official.lockstep import PipelineWatcher
from runners.official.pipelines import CLASSES
from runners.official.request import Adapter, OfficialRequest
from runners.protocol import Capabilities, Outcome, RunOptions, require_understood
from runners.tap import tap
from runners.weights import Weights

ADAPTERS: Final = {
    "1.0.0": "runners.official.release_1_0",
    "1.1.2": "runners.official.release_1_1",
    "1.2.0": "runners.official.release_1_2",
}
TRANSFORMERS: Final = {"1.2.0": ((5, 8), (5, 15))}  # from the first to below the second, by the release's own metadata
SHOWN = 300  # characters of an official error


class OfficialRunner:
    """Executes cases with official code."""

    name = "official"

    def __init__(
        self,
        weights: Weights,
        options: RunOptions,
        through_helpers: bool = False,
        official_root: Path | None = None,
        watcher: PipelineWatcher | None = None,
    ) -> None:
        """Prepare a runner.

        Args:
            weights: the model's files.
            options: device and dtype.
            through_helpers: for 1.0.0, take the oracle's path also in bf16.
            official_root: root of a checkout; None takes the installed packages.
            watcher: told what the pipeline is doing; for 1.0.0.
        Raises: RunnerError if there is no official code there, or none that can be watched.
        """
        self.weights = weights
        self.options = options
        self.code = official_code(official_root)
        # Later pipelines are made of blocks that take a dtype, so that only this one needs a way around its class.
        self.through_helpers = adapter_name(self.code) == ADAPTERS["1.0.0"] and (
            through_helpers or options.dtype != torch.bfloat16
        )
        if watcher is not None and adapter_name(self.code) != ADAPTERS["1.0.0"]:
            raise RunnerError(
                f"Only official code built like 1.0.0 can be watched part by part; this is {self.code.release}. "
                "Install ltx-core and ltx-pipelines 1.0.0."
            )
        self._watcher = watcher
        self._stack = ExitStack()

    @property
    def capabilities(self) -> Capabilities:
        """The capabilities of this code: it is one release, or `custom`."""
        return Capabilities(
            switches=frozenset({"skip_v2a_cross_attn_for_video_gt"}),
            tiers=frozenset({"exact"}),
            dtypes=frozenset({torch.bfloat16, torch.float32}),
            releases=frozenset({self.code.release}),
            behaviours=False,
            taps=("*",),
            loras=True,
            pipelines=frozenset(CLASSES),
            quantizations=frozenset({"fp8_cast", "fp8_scaled_mm"}),
        )

    def require(self, case: Case) -> None:
        """Refuse a switch or a reference that this code is not, before it is imported. Raises: RunnerError."""
        require_understood(self.name, self.capabilities, case, self.options)

    def __enter__(self) -> Self:
        """Import the official code.

        Raises: RunnerError if other official code was imported before, or its transformers is not here.
        """
        require_transformers(self.code.release, version("transformers"))
        prepare_imports()
        import_from(self.code)
        self._stack.enter_context(without_cuda_calls())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    @torch.inference_mode()
    def run(self, case: Case, progress: Progress) -> Outcome:
        """Execute a case. Raises: RunnerError for a switch or a reference that this code is not."""
        self.require(case)
        device = self.options.device
        weights = self.weights.of_pipeline(case.pipeline)
        loras = loras_of(case, weights)  # the official loader passes over one that matches nothing
        clock = Clock(device, progress)
        request = OfficialRequest(
            case=case,
            weights=weights,
            options=self.options,
            loras=loras,
            distilled_lora=stage_loras(case, weights)[-1][len(loras) :],
            clock=clock,
            through_helpers=self.through_helpers,
            watcher=self._watcher,
        )
        try:
            made = cast(Adapter, importlib.import_module(adapter_name(self.code))).execute(request)
        except torch.OutOfMemoryError as error:
            raise OutOfMemoryError(f"{device} ran out of memory in the official run ({error}).") from error
        except ParityError:
            raise
        except Exception as error:  # the official code checks little, so that bad input fails anywhere inside it
            raise RunnerError(
                f"The official code {self.code.release} cannot run this case with these weights: "
                f"{type(error).__name__} at {_where(error)}: {' '.join(str(error).split())[:SHOWN]}"
            ) from error
        clock.end()
        tap("decode/frames", made.frames)
        tap("decode/waveform", made.waveform)
        return Outcome(
            video_frames=made.frames,
            audio_waveform=made.waveform,
            video_latent=made.video_latent,
            audio_latent=made.audio_latent,
            frame_rate=case.request.frame_rate,
            sample_rate_hz=made.sample_rate_hz,
            sigmas=made.sigmas.cpu(),
            stage_s=clock.stage_s,
            step_s=clock.step_s(),
            peak_bytes=clock.peak_bytes(),
            details={**self.code.details(), "through_helpers": self.through_helpers},
        )


def require_transformers(release: str, present: str) -> None:
    """Refuse a version of transformers that a release does not run with. Raises: RunnerError."""
    if release not in TRANSFORMERS:
        return
    first, beyond = TRANSFORMERS[release]
    major, minor = (int(part) for part in present.split(".")[:2])
    if not first <= (major, minor) < beyond:
        raise RunnerError(
            f"Official {release} runs with transformers {first[0]}.{first[1]} to below {beyond[0]}.{beyond[1]}; this "
            f"interpreter has {present}. Name one that has it with --runner-python."
        )


def _where(error: Exception) -> str:
    """File and line of the innermost official code that an error came through."""
    frames = traceback.extract_tb(error.__traceback__)
    official = [frame for frame in frames if any(f"/{package}/" in frame.filename for package in PACKAGES)] or frames
    return f"{Path(official[-1].filename).name}:{official[-1].lineno}"


def adapter_name(code: OfficialCode) -> str:
    """The module that adapts a release; for code that is none of them, that of the generation it is built like."""
    release = code.release
    if release not in ADAPTERS:
        (utils,) = {source / "ltx_pipelines/utils" for source in code.sources if (source / "ltx_pipelines").is_dir()}
        release = "1.2.0" if (utils / "model_paths.py").is_file() else "1.1.2"
        if (utils / "model_ledger.py").is_file():
            release = "1.0.0"
    return ADAPTERS[release]
