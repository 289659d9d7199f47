"""docs/reference/security-tests.md names tests that exist."""

import re
from pathlib import Path

TESTS = Path(__file__).parents[1]
PAGE = TESTS.parent / "docs/reference/security-tests.md"


def named():
    """(file without .py, test or None) for each name on the page; ``::test_...`` belongs to the file before it."""
    file = None
    for found in re.findall(r"`((?:unit|kdc|e2e|acceptance)/test_\w+(?:::test_\w+)?|::test_\w+)`", PAGE.read_text()):
        before, _, test = found.partition("::")
        file = before or file
        yield file, test or None


def test_every_test_on_the_page_is_there():
    """Would have caught: a promise whose test was renamed, or never written."""
    rows = list(named())
    assert len(rows) > 60
    for file, test in rows:
        path = TESTS / f"{file}.py"
        assert path.exists(), file
        assert test is None or f"def {test}(" in path.read_text(), f"{file}::{test}"
