"""The sentences of a runner's check."""

from typing import Final

from parity.explain.runner_check import Flaw, Kind, RunnerCheck

KIND_WORDS: Final[dict[Kind, str]] = {
    "protocol": "the protocol (runners/protocol.py)",
    "output": "what run hands back",
    "unknown_tap": "a tap's name",
    "missing_tap": "taps that are missing",
    "repeated_tap": "a tap heard twice",
    "undeclared_tap": "a tap that is not declared",
    "shape": "a tap's shape",
    "dtype": "a tap's dtype",
    "not_finite": "NaN or infinity",
    "order": "the order of calls",
    "layout": "the layout of a tap",
    "other_pass": "a tap of another pass",
    "value": "where the numbers depart",
    "switch": "a switch",
}
SHOWN: Final = 8  # flaws of one kind


def check_lines(check: RunnerCheck) -> list[str]:
    """A runner's check, line by line: what is wrong by kind, in the order in which a person would mend it."""
    lines = [f"{check.runner} ran {check.case_id} in two steps: {check.taps} of {check.taps_of_case} taps heard"]
    for kind, words in KIND_WORDS.items():
        found = [flaw for flaw in check.flaws if flaw.kind == kind]
        if found:
            lines.append(f"{words}:")
            lines += [f"  {_sentence(flaw)}" for flaw in found[:SHOWN]]
        if len(found) > SHOWN:
            lines.append(f"  and {len(found) - SHOWN} more")
    if check.worst is not None:
        tap, error = check.worst
        far = f"farthest from the native model: {tap}, relative L2 {error:.2g}"
        lines.append(far if error else "no tap is another number than the native model's")
    lines.append(
        "nothing is wrong with its form; `parity run`, then `parity gate`, judge its numbers"
        if not check.flaws
        else f"{len(check.flaws)} to mend; docs/taps.md has every tap's form"
    )
    return lines


def _sentence(flaw: Flaw) -> str:
    wanted = f"; wanted {flaw.wanted}" if flaw.wanted else ""
    hint = f" ({flaw.hint})" if flaw.hint else ""
    return f"{flaw.where}: {flaw.got}{wanted}{hint}"
