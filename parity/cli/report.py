"""`parity report`: one run as one page that needs no network."""

from pathlib import Path
from typing import Annotated

import typer

from parity.cli.two_runs import GOLDEN, Against, Runs, two_runs
from parity.cli.verb import out, verb


@verb
def report(
    runs: Runs,
    page: Annotated[Path, typer.Option("--out", help="HTML file to write.")],
    against: Against = None,
    isolated: Annotated[
        Path | None, typer.Option(help="What `parity isolate REF --out FILE` left, to be judged as well.")
    ] = None,
    floors: Annotated[Path | None, typer.Option(help="Measured floors, from `parity amplify --out FILE`.")] = None,
    identified: Annotated[
        Path | None, typer.Option(help="Which release it follows, from `parity identify --out FILE`.")
    ] = None,
) -> int:
    """Draw a run beside its reference; exits 0 once the page is written, whatever it says, and `parity gate` judges."""
    from parity.report.page import head_word, write_page
    from parity.report.page_content import content_of
    from parity.runs.folder import read_run
    from parity.runs.golden import reference_run
    from parity.trace.atomic import require_named_target

    against, run = two_runs(runs, against)
    require_named_target(page)
    candidate = read_run(run)
    reference = reference_run(against or GOLDEN, candidate.case_id)
    content = content_of(reference, candidate, isolated=isolated, floors=floors, identified=identified)
    size = write_page(page, content)
    out.print(f"{page}: {head_word(content.verdict)}, {size / 1e6:.1f} MB")
    return 0
