"""The documentation's links: each leads to a file that is there, and to a heading that it has."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = sorted({*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "src").rglob("*.md")})
_CODE = re.compile(r"```.*?```|`[^`\n]*`", re.S)
_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    for link in _LINK.findall(_CODE.sub("", page.read_text())):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, heading = link.partition("#")
        target = page.parent / path if path else page
        assert target.exists(), f"{link}: no such file"
        if heading:
            assert heading in anchors(target), f"{link}: {target.name} has no such heading"


def test_every_page_is_in_the_menu():
    """A page that mkdocs.yml does not name is found by nobody."""
    menu = (ROOT / "mkdocs.yml").read_text()
    pages = [str(path.relative_to(ROOT / "docs")) for path in (ROOT / "docs").rglob("*.md")]
    missing = [page for page in pages if page not in menu]
    assert not missing, f"add to nav in mkdocs.yml: {', '.join(missing)}"


def anchors(page):
    """The headings as GitHub and mkdocs name them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.M)
    plain = [re.sub(r"[^\w\- ]", "", re.sub(r"[`*_]", "", heading)).strip().lower() for heading in headings]
    return {heading.replace(" ", "-") for heading in plain}
