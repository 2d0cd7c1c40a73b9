"""`parity check-runner`: is a runner of one's own complete, and where is it wrong?"""

from typing import Annotated

import typer

from parity.cli.threads import Threads, compute_on
from parity.cli.verb import out, verb

SKIP_V2A = "skip_v2a_cross_attn_for_video_gt"


@verb
def check_runner(
    runner: Annotated[str, typer.Argument(metavar="FILE.py:CLASS", help="The runner.")],
    case: Annotated[str, typer.Option(help="Id under golden/, or a TOML file; in two steps.")] = "tiny_ti2v",
    weights: Annotated[str, typer.Option(help="Weights folder, or forge:PRESET:SEED.")] = "forge:tiny:0",
    device: Annotated[str, typer.Option(help="cpu, cuda or cuda:N.")] = "cpu",
    threads: Threads = None,
) -> int:
    """Run a runner for two steps, and say what is wrong with its names, shapes, layouts, order and switches."""
    from parity.explain.runner_check import RunnerCheck, check_run, hear, protocol_flaws, switch_flaws
    from parity.report.runner_check import check_lines
    from parity.runs.execute import device_named
    from parity.runs.golden import find_case
    from parity.taps.dataflow import Dataflow
    from runners.catalogue import open_runner
    from runners.forge.weights import weights_named
    from runners.native.runner import NativeRunner
    from runners.protocol import RunOptions
    from runners.weights import num_blocks

    where = device_named(device)
    compute_on(threads, where)
    files, options = weights_named(weights, where), RunOptions(device=where)
    engine = open_runner(runner, files, options)
    found = find_case(case, {"request.num_inference_steps": 2})
    flow = Dataflow(found, num_blocks(files))
    flaws = protocol_flaws(engine)
    worst, heard = None, None
    if not flaws:
        truth = hear(NativeRunner(files, options), found)
        heard = hear(engine, found)
        flaws, worst = check_run(heard, truth, engine.capabilities, found, flow, files.config)
        if SKIP_V2A in engine.capabilities.switches:
            off = find_case(case, {"request.num_inference_steps": 2, f"switches.{SKIP_V2A}": True})
            flaws += switch_flaws(SKIP_V2A, heard, hear(open_runner(runner, files, options), off))
    check = RunnerCheck(
        runner=runner,
        case_id=found.id,
        taps=0 if heard is None else sum(tap in flow for tap in heard.taps),
        taps_of_case=len(flow.taps),
        flaws=tuple(flaws),
        worst=worst,
    )
    for line in check_lines(check):
        out.print(line)
    return 1 if check.flaws else 0
