"""Realms for the Kerberos tests of this folder, with this process inside; who is logged in at an API on its own.

``kdc`` is one for all: alice, two services, their keytabs. ``realm`` is a module's own, with what an auksd needs.
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
from auksd_box import NOBODY, USERS, login, make_realm
from krb5_box import PASSWORD, Kdc

from api_box import ApiBox
from hipercow_slurm.krb5 import creds
from hipercow_slurm.testing.realm import Realm
from hipercow_slurm.values import KrbCred


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


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where a module's realm and daemons keep their files."""
    return tmp_path_factory.mktemp("auksd")


@pytest.fixture(scope="module")
def realm(folder: Path) -> Iterator[Realm]:
    """A module's own realm, with this process living in it."""
    with make_realm(folder) as realm:
        yield realm


@pytest.fixture(scope="module")
def tgt(folder: Path, realm: Realm) -> dict[str, KrbCred]:
    """A TGT of everybody in ``realm``, and of the compute node ("node")."""
    found = {user: login(folder, user) for user in (*USERS, NOBODY, "stranger")}
    found["node"] = creds.keytab_tgt("host/node.test", str(folder / "node.keytab"))
    return found


@pytest.fixture(scope="module")
def alice(box: ApiBox) -> Iterator[httpx.Client]:
    """alice, logged in at the module's API."""
    with box.as_user("alice") as client:
        yield client


@pytest.fixture(scope="module")
def bob(box: ApiBox) -> Iterator[httpx.Client]:
    """bob, logged in at the module's API."""
    with box.as_user("bob") as client:
        yield client
