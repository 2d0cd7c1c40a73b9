"""Documents a newcomer reads: short where they must be, links that lead somewhere, every verb listed."""

import re
from pathlib import Path

import pytest
from typer.main import get_command

from parity.cli.app import GROUPS, app
from parity.defects.catalogue import CATALOGUE

ROOT = Path(__file__).parents[1]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
LINK = re.compile(r"\]\((?!https?:)([^)#\s]*)(?:#([^)\s]+))?\)")
MOST_LINES_OF_README = 150
MOST_CHARACTERS_OF_AN_ENTRY = 160


def anchors(text: str) -> set[str]:
    """Anchors that the headings of a document can be linked by."""
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def broken(document: Path) -> list[str]:
    """Links to files or headings that are not there."""
    found = []
    for name, anchor in LINK.findall(document.read_text(encoding="utf-8")):
        target = (document.parent / name) if name else document
        if not target.exists() or (anchor and anchor not in anchors(target.read_text(encoding="utf-8"))):
            found.append(f"{name}#{anchor}" if anchor else name)
    return found


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_link_leads_to_a_file_and_a_heading(document: Path) -> None:
    assert broken(document) == []


def test_a_link_that_leads_nowhere_is_found(tmp_path: Path) -> None:
    (tmp_path / "other.md").write_text("# A thing, or `two`\n")
    page = tmp_path / "page.md"
    page.write_text(
        "# Page\n[a](gone.md) [b](other.md#a-thing-or-two) [c](other.md#three) [d](#page) [e](https://x.y/z#q)\n"
    )
    assert broken(page) == ["gone.md", "other.md#three"]


def test_the_readme_is_one_screen_and_changes_are_lines() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
    assert len(readme) <= MOST_LINES_OF_README
    changes = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8").splitlines()
    entries = [line for line in changes if line.startswith("- ")]
    assert len(entries) > 50
    assert [line for line in entries if len(line) > MOST_CHARACTERS_OF_AN_ENTRY] == []
    assert [line for line in changes if line.startswith(" ")] == []  # an entry goes on in no second line


def test_every_verb_is_listed() -> None:
    cells = re.findall(r"^\| (`parity [^|]*) \|", (ROOT / "docs/verbs.md").read_text(encoding="utf-8"), re.MULTILINE)
    listed = [verb for cell in cells for verb in re.findall(r"`parity ([a-z-]+)`", cell)]
    assert sorted(listed) == sorted(get_command(app).commands)  # type: ignore[attr-defined]


def test_the_page_of_defects_counts_them() -> None:
    assert f"There are {len(CATALOGUE)}." in (ROOT / "docs/defects.md").read_text(encoding="utf-8")


def test_the_readme_says_what_the_campaigns_table_says() -> None:
    lines = (ROOT / "docs/reliability.md").read_text(encoding="utf-8").splitlines()
    head = next(number for number, line in enumerate(lines) if line.startswith("| verb | tried"))
    end = next(number for number in range(head, len(lines)) if not lines[number].startswith("|"))
    names, values = ([cell.strip() for cell in lines[number].split("|")] for number in (head, end - 1))
    table = dict(zip(names, values, strict=True))
    assert table["verb"] == "all"
    assert {table[name] for name in ("tracebacks", "outside writes", "damage passed")} == {"0"}
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert f"Of {int(table['tried']):,} damaged inputs" in readme
    assert f"the slowest took {table['slowest']}, the largest {table['largest']}." in readme


def test_the_readme_lists_every_verb_in_its_group() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| ([a-z]+) \| (`[a-z`\- ]+`) \|$", readme, re.MULTILINE))
    assert rows == {group.lower(): " ".join(f"`{verb}`" for verb in verbs) for group, verbs in GROUPS.items()}
