"""Files of a matrix in its folder: the grid as JSON, Markdown, JUnit and a page, and the pages of its cells."""

from collections.abc import Iterable
from pathlib import Path
from typing import Final

from parity.fleet.grid import Grid
from parity.fleet.row import RowResult
from parity.report.junit import matrix_suites, write_junit
from parity.report.matrix import grid_document, grid_markdown
from parity.report.matrix_page import matrix_page
from parity.runs.store import Store
from parity.trace.atomic import own_folder, write_bytes_atomic, write_json_atomic
from runners.errors import RunError

PAGES: Final = "reports"
GRID, SUMMARY, JUNIT, PAGE = "matrix.json", "matrix.md", "matrix.xml", "matrix.html"


def page_name(key: str, engine: str) -> str:
    """The name of a cell's page, relative to the folder of a matrix."""
    return f"{PAGES}/{key[:16]}-{engine.replace(':', '_').replace('/', '_')}.html"


def bring_pages(folder: Path, results: Iterable[RowResult], store: Store) -> list[str]:
    """Bring the pages of cells home from the store, but for those that are there. Returns: what could not be had."""
    own_folder(folder, PAGES).mkdir(exist_ok=True)
    missing = []
    for result in results:
        for cell in result.cells:
            target = own_folder(folder, *page_name(result.key, cell.engine).split("/"))
            if cell.report is None or (target.is_file() and target.stat().st_size == cell.report.bytes):
                continue
            try:
                store.get(cell.report, target)
            except RunError as error:
                missing.append(f"{result.place}, {cell.engine}: {error}")
    return missing


def save_grid(folder: Path, grid: Grid) -> None:
    """Write the grid in all its forms. Raises: OutputError."""
    names = {(row.key, cell.engine): page_name(row.key, cell.engine) for row in grid.rows for cell in row.cells}
    pages = {of: name for of, name in names.items() if (folder / name).is_file()}
    write_json_atomic(folder / GRID, grid_document(grid))
    write_bytes_atomic(folder / SUMMARY, grid_markdown(grid).encode())
    write_junit(folder / JUNIT, matrix_suites(grid))
    write_bytes_atomic(folder / PAGE, matrix_page(grid, pages).encode())
