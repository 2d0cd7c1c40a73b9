"""Limits of cases at full size on a GPU box, in one call that ends in time; the same call goes on.

    python bench/limits.py --out FOLDER [--cases ID,ID] [--minutes 8.5] [--device cuda] [--weights forge:full:0]

Every case is calibrated sparingly (`parity calibrate --sparing`: `parity.calibrate.sparing` says in which order) until
the minutes are over, weights included. What was measured is kept in FOLDER/samples_CASE.json after each member; with
those files in a folder of the same name, a later call, on another box of the kind too, goes on. As soon as a case has
enough, its limits follow: FOLDER/thresholds is the checkout's own registry with these in it, to be copied over
`thresholds/`. Nothing of the checkout is changed.

Exit code 0 if every case has limits, 2 if one has not: the call is to be given again.
"""

import sys
import time
from functools import partial
from pathlib import Path

from gpu import options

from parity.calibrate.checkpoint import CalibrationCheckpoint, measured_in
from parity.calibrate.limits import propose_limits
from parity.calibrate.populations import Populations, measure
from parity.diff.runs import subset_of_case, subset_phrase
from parity.judge.limit_table import TableKey
from parity.judge.registry import Registry, device_of, load_registry, save_registry
from parity.runs.environment import fingerprint
from parity.runs.execute import device_named
from parity.runs.golden import find_case
from parity.runs.places import limits_path
from runners.case import case_document
from runners.errors import OutOfTimeError
from runners.forge.weights import weights_named

CASES = "ltx_2.3_one_stage_ti2v_25f,ltx_2.3_one_stage_ti2v"
say = partial(print, flush=True)


def main() -> int:
    """Calibrate and save."""
    parser = options(__doc__)
    parser.add_argument("--cases", default=CASES)
    parser.add_argument("--minutes", type=float, default=8.5)
    parser.add_argument("--only", action="append", default=[], help="measure this member only; repeat for more")
    parser.add_argument("--compiled", action="store_true", help="compiled branches are harmless, too; minutes a case")
    parser.add_argument("--reason", default="measured on more of the population")
    arguments = parser.parse_args()
    begun_s = time.monotonic()
    out, device = Path(arguments.out), device_named(arguments.device)
    weights = weights_named(arguments.weights, device)
    path = limits_path()
    registry, lacking = load_registry(path) if path.exists() else Registry(), []
    for name in arguments.cases.split(","):
        case, subset = find_case(name), subset_of_case(name)
        checkpoint = CalibrationCheckpoint(
            only=tuple(arguments.only),
            kept=out / f"samples_{name}.json",
            minutes=arguments.minutes,
            begun_s=begun_s,
            origin={
                "weights": weights.hash,
                "environment": measured_in(device),
                "case": case_document(case),
                "compared_on": subset_phrase(subset),
            },
        )
        try:
            found: Populations = measure(
                weights,
                case,
                say,
                compiled=arguments.compiled,
                device=device,
                subset=subset,
                checkpoint=checkpoint,
                sparing=True,
            )
        except OutOfTimeError as error:
            say(f"{name}: {error}")
            lacking.append(name)
            continue
        command = f"python bench/limits.py --cases {name} --device {arguments.device} --weights {arguments.weights}"
        proposal = propose_limits(registry, weights, {name: found}, command, device)
        registry = proposal.accept(arguments.reason)
        limits = registry.cases[TableKey(name, device_of(fingerprint(device)))]
        statuses = [limit.status for limit in limits.values()]
        counts = ", ".join(f"{statuses.count(status)} {status}" for status in ("calibrated", "OVERLAP", "exact"))
        say(f"{name}: {len(found.floor)} harmless, {len(found.defects)} of {found.known_defects} defects: {counts}")
    (out / "thresholds").mkdir(parents=True, exist_ok=True)
    save_registry(out / "thresholds" / limits_path().name, registry)
    say(
        f"{time.monotonic() - begun_s:.0f} s; limits are in {out / 'thresholds'}"
        + (f", none of {', '.join(lacking)}" if lacking else "")
    )
    return 2 if lacking else 0


if __name__ == "__main__":
    sys.exit(main())
