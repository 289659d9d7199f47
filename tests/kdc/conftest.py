"""One realm for the Kerberos tests of this folder: alice, two services, their keytabs, and this process inside it."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from krb5_box import PASSWORD, Kdc

from hipercow_slurm.testing.realm import Realm


@pytest.fixture(scope="session")
def running_kdc(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kdc]:
    """The realm, started once for the session."""
    folder = tmp_path_factory.mktemp("krb5-realm")
    with Realm(folder / "realm") as realm:
        realm.add_user("alice", PASSWORD)
        realm.add_service("HTTP/head.test")
        realm.add_service("auks/head.test")
        keytabs = [realm.keytab(folder / name, f"{name}/head.test") for name in ("HTTP", "auks")]
        yield Kdc(realm, *map(str, keytabs))


@pytest.fixture
def kdc(running_kdc: Kdc) -> Iterator[Kdc]:
    """The realm, with this process living in it for the length of the test."""
    with running_kdc.realm.activated():
        yield running_kdc


@pytest.fixture(scope="session")
def shift_clock(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], dict[str, str]]:
    """Environment for a process whose clock is so many seconds off."""
    library = tmp_path_factory.mktemp("shift") / "shift_clock.so"
    source = Path(__file__).with_name("shift_clock.c")
    subprocess.run(["cc", "-shared", "-fPIC", "-Wall", "-Werror", "-o", library, source, "-ldl"], check=True)
    return lambda seconds: {"LD_PRELOAD": str(library), "SHIFT_CLOCK_S": str(seconds)}
