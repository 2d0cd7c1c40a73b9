"""`parity doctor`: what this machine is, and whether everything needed is there."""

from typing import Annotated

import typer

from parity.cli.verb import out, verb


@verb
def doctor(
    json: Annotated[bool, typer.Option("--json", help="For machines.")] = False,
) -> int:
    """Show the environment fingerprint and whether the official code, the goldens and the limits are whole."""
    import torch

    from parity.judge.registry import load_registry
    from parity.runs.environment import fingerprint
    from parity.runs.golden import GOLDEN_FILE, golden_of, releases_kept
    from parity.runs.places import case_folders, data_roots, limits_path
    from runners.errors import ParityError
    from runners.official.files import KNOWN_RELEASES, require_release

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    checks: dict[str, str] = {}
    try:
        require_release(KNOWN_RELEASES[0])
        checks["official code"] = f"release {KNOWN_RELEASES[0]}, every file as published"
    except ParityError as error:
        checks["official code"] = f"PROBLEM: {error}"
    for folder in case_folders():
        case = folder.name
        if not (folder / GOLDEN_FILE).is_file():
            continue
        for release in (None, *releases_kept(case)):
            name = f"golden {case}" + ("" if release is None else f"@{release}")
            try:
                manifest = golden_of(case, release).manifest
                checks[name] = f"whole, official {manifest.reference}, {manifest.created_utc}"
            except ParityError as error:
                checks[name] = f"PROBLEM: {error}"
    registries = [path for path in map(limits_path, data_roots()) if path.is_file()]
    for path in (one for own in registries for one in (own, *sorted(own.parent.glob(f"forms/*/{own.name}")))):
        name = f"limits {'' if path in registries else path.parent.name}".strip()
        name += f" in {path.parent.parent.name}" if name in checks else ""
        try:
            registry = load_registry(path)
            registry.verify()
            count = sum(map(len, registry.tables().values()))
            checks[name] = f"{count} in {path.parent}, each as its samples have it"
        except ParityError as error:
            checks[name] = f"PROBLEM: {error}"
    environment = fingerprint(device)
    if json:
        out.document({"environment": environment, "checks": checks})
    else:
        for key, value in {**environment, **checks}.items():
            out.print(f"{key:26} {value}")
    return 2 if any(text.startswith("PROBLEM") for text in checks.values()) else 0
