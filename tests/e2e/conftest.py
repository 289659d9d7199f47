"""The people of the story, ready to act."""

from __future__ import annotations

import pytest

from hipercow_slurm.testing.sandbox import Sandbox
from hipercow_slurm.testing.story import Laptop


@pytest.fixture(scope="module")
def alice(sandbox: Sandbox) -> Laptop:
    """alice, logged in on the laptop."""
    return _logged_in(sandbox, "alice")


@pytest.fixture(scope="module")
def bob(sandbox: Sandbox) -> Laptop:
    """bob, logged in on the laptop."""
    return _logged_in(sandbox, "bob")


def _logged_in(sandbox: Sandbox, user: str) -> Laptop:
    laptop = Laptop(sandbox, user)
    laptop.login()
    return laptop
