"""`parity run`: execute a case with a runner and leave a run folder."""

import tomllib
from pathlib import Path
from typing import Annotated, Any

import typer

from parity.cli.named import CaseName, RunnerName
from parity.cli.progress import progress_of
from parity.cli.threads import Threads, compute_on
from parity.cli.verb import err, out, verb
from runners.errors import CaseError, RunnerError
from runners.load import parse_toml


@verb
def run(
    runner: RunnerName,
    case: CaseName,
    weights: Annotated[str, typer.Option(help="Folder with ltx-2.3*.safetensors and Gemma, or forge:PRESET:SEED.")],
    folder: Annotated[Path, typer.Option("--out", help="Run folder to write; a finished run there wants --replace.")],
    tier: Annotated[str, typer.Option(help="exact, fast, fp8 or fp8x2; native only.")] = "exact",
    reference: Annotated[
        str | None, typer.Option(help="Official release to follow, instead of the case's; or custom.")
    ] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda or cuda:N.")] = "cpu",
    second_device: Annotated[
        str | None, typer.Option(help="Computes some guidance passes of each step, with equal bits; native only.")
    ] = None,
    dtype: Annotated[str, typer.Option(help="bf16, or fp32 for the oracle.")] = "bf16",
    skip_v2a: Annotated[bool, typer.Option("--skip-v2a", help="Audio never attends to video.")] = False,
    disable_autocast: Annotated[
        bool | None, typer.Option("--disable-autocast/--enable-autocast", help="Overrides case and configuration.")
    ] = None,
    taps: Annotated[str | None, typer.Option(help="Record taps whose names match this pattern, '*' for all.")] = None,
    keep: Annotated[str, typer.Option(help="What to keep of a tap: sketch or full.")] = "sketch",
    setting: Annotated[list[str] | None, typer.Option("--set", help="KEY=VALUE, e.g. request.seed=3.")] = None,
    lora: Annotated[
        list[str] | None,
        typer.Option(help="FILE:STRENGTH of a LoRA, after the case's own; several are fused in order."),
    ] = None,
    official_root: Annotated[
        Path | None, typer.Option(help="Checkout of Lightricks/LTX-2 to run instead of the installed release.")
    ] = None,
    runner_python: Annotated[
        Path | None, typer.Option(help="Run in a process of this interpreter, e.g. other-venv/bin/python.")
    ] = None,
    engine_root: Annotated[Path | None, typer.Option(help="Checkout of the engine itself; comfyui only.")] = None,
    engine_option: Annotated[
        list[str] | None, typer.Option(help="KEY=VALUE of the engine itself, e.g. quality=lossless; docs/engines.md.")
    ] = None,
    replace: Annotated[bool, typer.Option("--replace", help="Replace a finished run in --out.")] = False,
    threads: Threads = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress.")] = False,
) -> int:
    """Execute a case with a runner and leave a run folder."""
    # What refuses a case is imported first, then what refuses the rest; what is needed to run, once nothing does.
    from parity.runs.places import case_file
    from runners.case import load_case

    settings = _settings(setting or [])
    behaviours = settings.pop("reference.", {})
    overrides = settings.pop("pipeline.", {})
    if reference is not None:
        settings["reference"] = reference
    if skip_v2a:
        settings["switches.skip_v2a_cross_attn_for_video_gt"] = True
    found = load_case(case_file(case), settings)

    from parity.runs.execute import crash_kept, device_named, run_to_folder, writing_trace
    from parity.runs.folder import holds_run
    from parity.taps.pattern import require_choice
    from parity.trace.atomic import require_folder
    from parity.trace.trace_writer import NO_WINDOWS, Keep
    from runners.catalogue import open_runner
    from runners.forge.weights import weights_named
    from runners.loras import with_loras
    from runners.names import NAMES, OWN_ENVIRONMENT
    from runners.protocol import DTYPES, TIERS, Runner, RunOptions
    from runners.releases import RELEASES
    from runners.weights import num_blocks

    require_folder(folder, holds_run, replace=replace)
    if dtype not in DTYPES:
        raise RunnerError(f"--dtype is {dtype!r}; take {' or '.join(DTYPES)}.")
    chosen = next((one for one in TIERS if one == tier), None)
    if chosen is None:
        raise RunnerError(f"--tier is {tier!r}; take one of {', '.join(TIERS)}.")
    if keep not in ("sketch", "full"):
        raise RunnerError(f"--keep is {keep!r}; take sketch or full.")
    if runner in OWN_ENVIRONMENT and runner_python is None:
        raise RunnerError(
            f"Runner {runner!r} runs in an environment of its own, never in this process: name its interpreter with "
            "--runner-python. docs/engines.md says how to make one."
        )
    found = with_loras(found, lora or [])
    where = device_named(device)
    threads = compute_on(threads, where)
    files = weights_named(weights, where)
    if taps is not None and found.reference in RELEASES:  # of other code nobody knows which taps it has
        from parity.taps.dataflow import Dataflow

        require_choice(Dataflow(found, num_blocks(files)).taps, taps)
    options = RunOptions(
        device=where,
        second_device=None if second_device is None else device_named(second_device),
        dtype=DTYPES[dtype],
        tier=chosen,
        behaviours=behaviours,
        engine=_engine_options(engine_option or []),
    )
    if not quiet:
        from parity.report.before_run import lacking_limits
        from parity.runs.environment import fingerprint

        for line in lacking_limits(found, fingerprint(where), in_child=runner_python is not None):
            err.print(f"note: {line}")
    command_line = {"disable_autocast": disable_autocast}
    kept: Keep = "full" if keep == "full" else "sketch"
    windows = NO_WINDOWS
    if taps is not None and runner not in NAMES:
        from parity.trace.prompt_tokens import prompt_tokens

        windows = prompt_tokens(found, files)
    with progress_of(f"{runner} {found.id}", quiet) as progress:
        engine: Runner
        if runner_python is None:
            with crash_kept(folder):
                engine = open_runner(runner, files, options, overrides, command_line, official_root, engine_root)
        else:
            from parity.runs.child import ChildRunner

            engine = ChildRunner(
                python=runner_python,
                name=runner,
                weights=files,
                options=options,
                beside=folder,
                overrides=overrides,
                command_line=command_line,
                official_root=official_root,
                engine_root=engine_root,
                threads=threads,
            )
        tracing = None if taps is None else writing_trace(taps, kept, windows)
        outcome = run_to_folder(engine, found, files, options, folder, progress, tracing, replace=replace)
    if not quiet:
        out.print(
            f"{runner} ran {found.id}: {outcome.video_frames.shape[0]} frames, "
            f"{outcome.audio_waveform.shape[1] / outcome.sample_rate_hz:.2f} s of sound, run in {folder}",
        )
    return 0


def _engine_options(pairs: list[str]) -> dict[str, str]:
    """KEY=VALUE pairs, each key once."""
    options: dict[str, str] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not key or not equals or key in options:
            raise RunnerError(f"--engine-option wants KEY=VALUE, each key once, e.g. quality=lossless; got {pair!r}.")
        options[key] = value
    return options


def _settings(pairs: list[str]) -> dict[str, Any]:
    """KEY=VALUE pairs; `reference.X` and `pipeline.X` are gathered apart from keys of the case."""
    settings: dict[str, Any] = {"reference.": {}, "pipeline.": {}}
    for pair in pairs:
        key, equals, text = pair.partition("=")
        if not equals or not key:
            raise CaseError(f"--set wants KEY=VALUE, for example request.seed=3; got {pair!r}.")
        try:
            text.encode("utf-8")
            value = parse_toml(f"value = {text}", f"--set {key[:100]!r}", CaseError, "no key of a case is so")["value"]
        except UnicodeEncodeError:
            raise CaseError(f"--set {key[:100]!r} is not UTF-8 text; give it as that.") from None
        except CaseError as error:
            if not isinstance(error.__cause__, tomllib.TOMLDecodeError):
                raise
            value = text  # a bare word is a string
        for apart in ("reference.", "pipeline."):
            if key.startswith(apart):
                settings[apart][key.removeprefix(apart)] = value
                break
        else:
            settings[key] = value
    return settings
