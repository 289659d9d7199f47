"""What a laptop installs: pure Python wheels only, on Linux, Windows and macOS. Read from what is installed here.

tests/acceptance/test_laptop.py asks the package index itself, and installs the wheel into an environment of its own.
"""

from __future__ import annotations

import importlib.metadata
import re
from collections.abc import Iterator

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

# Not installed here, because only Windows needs it; its wheel is py2.py3-none-any.
ELSEWHERE = {"colorama"}
PLATFORMS = {
    "linux": {"sys_platform": "linux", "platform_system": "Linux", "os_name": "posix"},
    "windows": {"sys_platform": "win32", "platform_system": "Windows", "os_name": "nt"},
    "macos": {"sys_platform": "darwin", "platform_system": "Darwin", "os_name": "posix"},
}


def needed(name: str, environment: dict[str, str], seen: set[str]) -> Iterator[str]:
    """What ``name`` brings with it, without extras, where markers say so."""
    for text in importlib.metadata.requires(name) or []:
        requirement = Requirement(text)
        wanted = canonicalize_name(requirement.name)
        if wanted in seen or (requirement.marker and not requirement.marker.evaluate({"extra": "", **environment})):
            continue
        seen.add(wanted)
        yield wanted
        if wanted not in ELSEWHERE:
            yield from needed(wanted, environment, seen)


@pytest.mark.parametrize("python", ["3.11", "3.12", "3.13"])
@pytest.mark.parametrize("platform", PLATFORMS)
def test_the_base_install_is_pure_python(platform: str, python: str) -> None:
    """A dependency with C in it (cryptography, by way of a keyring's, for instance) would need a wheel for each."""
    environment = {**PLATFORMS[platform], "python_version": python, "python_full_version": f"{python}.0"}
    found = set(needed("hipercow-slurm", environment, set()))
    assert {"httpx", "click", "tenacity"} <= found, found
    for name in found - ELSEWHERE:
        wheel = importlib.metadata.distribution(name).read_text("WHEEL") or ""
        assert "Root-Is-Purelib: true" in wheel and re.search(r"^Tag: py.*-none-any$", wheel, re.MULTILINE), (
            f"{name} is not pure Python:\n{wheel}"
        )
