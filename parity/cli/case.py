"""`parity case`: a case as a request that engines record, and a case of such a request."""

import json
from pathlib import Path
from typing import Annotated

import typer

from parity.cli.verb import out, verb
from runners.errors import CaseError


@verb
def case(
    to_request: Annotated[
        str | None, typer.Option(metavar="CASE", help="Print this case, an id or a TOML file, as a request in JSON.")
    ] = None,
    from_request: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Print the case of this request, a JSON file, in TOML.")
    ] = None,
) -> int:
    """Turn a case into a request as engines record them, or such a request into a case; prints it."""
    from runners.case import case_text
    from runners.engine_request import case_of_request, request_of

    if to_request is not None and from_request is None:
        from parity.runs.golden import find_case  # and with it torch, which the other way does without

        text = json.dumps(request_of(find_case(to_request)), indent=2) + "\n"
    elif from_request is not None and to_request is None:
        text = case_text(case_of_request(from_request))
    else:
        raise CaseError("`parity case` wants either --to-request CASE or --from-request FILE.")
    out.source(text)
    return 0
