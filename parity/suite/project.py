"""A project of one's own: the folder of a user's cases, goldens, limits and speed baselines, begun by `parity init`."""

from pathlib import Path, PurePosixPath

from parity.runs.places import (
    CASE_FILE,
    PROJECT_FILE,
    PROJECT_FOLDER,
    PYPROJECT,
    TABLE,
    case_folder,
    case_id_of,
    found_project,
    project_root,
)
from parity.trace.atomic import append_text, own_folder, write_bytes_atomic
from runners.case import load_case
from runners.errors import CaseError, ConfigError
from runners.files import read_bytes
from runners.load import read_text

MAX_PICTURE_BYTES = 64 << 20
SAYS = "# The root of this project's cases, goldens, limits and speed baselines, for the command `parity`.\n"


def begin_project(folder: Path, root: str = PROJECT_FOLDER) -> tuple[Path, ...]:
    """Make a project of a folder: a table in its pyproject.toml if it has one, else `ROOT/parity.toml`.

    Args:
        folder: that gets the project.
        root: of its data, below it.
    Returns: what was written or made.
    Raises: ConfigError for a folder that is a project already, or a root that is not below it; OutputError.
    """
    inside = PurePosixPath(root)
    if inside.is_absolute() or ".." in inside.parts or not inside.name:
        raise ConfigError(f"--root {root!r} is no folder below {folder}; give a name such as {PROJECT_FOLDER}.")
    pyproject, place = folder / PYPROJECT, folder / inside
    own = folder / PROJECT_FOLDER / PROJECT_FILE
    if own.is_file() or (pyproject.is_file() and found_project(folder) not in (None, _above(folder))):
        raise ConfigError(f"{folder} is a project already, whose data lies in {found_project(folder)}.")
    table = f'{SAYS}[tool.{TABLE}]\nroot = "{inside}"\n'
    if pyproject.is_file():
        written = pyproject
        text = read_text(pyproject, ConfigError, "mend it, or begin the project elsewhere")
        append_text(pyproject, f"{'' if text.endswith(chr(10)) or not text else chr(10)}\n{table}")
    elif root == PROJECT_FOLDER:
        written = own
        own_folder(folder, PROJECT_FOLDER).mkdir(exist_ok=True)
        write_bytes_atomic(own, f'{SAYS}root = "."\n'.encode())
    else:  # a root of another name is said by a file that is looked for
        written = pyproject
        write_bytes_atomic(pyproject, table.encode())
    made = [place / name for name in ("golden", "thresholds")]
    for path in made:
        path.mkdir(parents=True, exist_ok=True)
    return (written, *made)


def copy_case(name: str) -> Path:
    """Copy a case that ships, its file and pictures, into one's own project, to be changed and recorded there.

    Returns: its folder.
    Raises: CaseError for a case that there is not, or that is one's own already; RunError if there is no project.
    """
    name = case_id_of(name)
    source, target = case_folder(name), project_root() / "golden" / name
    if source == target and (source / CASE_FILE).is_file():
        raise CaseError(f"Case {name!r} is one of this project already, in {target}.")
    case = load_case(source / CASE_FILE)
    target.mkdir(parents=True, exist_ok=True)
    pictures = {image.path: case.image_path(image) for image in case.request.images}
    for inside, path in {CASE_FILE: source / CASE_FILE, **pictures}.items():
        copy = target / inside
        copy.parent.mkdir(parents=True, exist_ok=True)
        write_bytes_atomic(copy, read_bytes(path, CaseError, "restore it", max_bytes=MAX_PICTURE_BYTES))
    return target


def _above(folder: Path) -> Path | None:
    return found_project(folder.parent)
