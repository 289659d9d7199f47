"""The Debian packages of this tree: linted, installed, upgraded and purged by dpkg on a copy of this machine."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from fresh_root import FreshRoot

ROOT = Path(__file__).parents[2]
PACKAGES = ("hipercow-slurm", "hipercow-slurm-head", "hipercow-slurm-spank", "hipercow-slurm-node")
KEYS = (
    *(f"/etc/hipercow-slurm/{name}" for name in ("auksd.key", "api.key", "api.crt", "jwks.json")),
    *(f"/var/lib/hipercow-slurm/signer/{name}" for name in ("key.pem", "key.next.pem")),
)
# What dpkg, adduser and userdel note about themselves.
NOT_OURS = ("/var/lib/dpkg", "/var/log/dpkg", "/var/log/alternatives", "/var/cache", "/etc/.pwd.lock", "/debs")
NOT_OURS += tuple(f"/etc/{name}{old}" for name in ("passwd", "group", "shadow", "gshadow") for old in ("", "-"))
NOT_OURS += tuple(f"/etc/{name}{old}" for name in ("subuid", "subgid") for old in ("", "-"))


@pytest.fixture(scope="module")
def root(debs: Path) -> Iterator[FreshRoot]:
    """A copy of this machine with all packages installed."""
    with FreshRoot(debs) as made:
        made.run("dpkg --install /debs/*.deb")
        yield made


def test_lintian_finds_nothing(debs: Path) -> None:
    """Errors and warnings alike; what is meant otherwise has its override, with the reason."""
    done = subprocess.run(["lintian", "--allow-root", *debs.glob("*.deb")], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, ""), done.stdout + done.stderr


def test_installation_makes_users_and_keys_for_them_alone(root: FreshRoot) -> None:
    """A key that another account can read is everybody's."""
    said = root.run(f"stat -c '%n %U %a' {' '.join(KEYS)}")
    assert said.split("\n")[:-1] == [
        "/etc/hipercow-slurm/auksd.key hcs-auksd 600",
        "/etc/hipercow-slurm/api.key hcs-api 600",
        "/etc/hipercow-slurm/api.crt root 644",
        "/etc/hipercow-slurm/jwks.json root 644",
        "/var/lib/hipercow-slurm/signer/key.pem hcs-signer 600",
        "/var/lib/hipercow-slurm/signer/key.next.pem hcs-signer 600",
    ]
    for user in ("hcs-api", "hcs-signer", "hcs-auksd"):
        uid, shell = root.run(f"getent passwd {user}").strip().split(":")[2::4]
        assert (100 <= int(uid) < 1000, shell) == (True, "/usr/sbin/nologin"), (user, uid, shell)
    assert "head.example.org" in root.run("openssl x509 -in /etc/hipercow-slurm/api.crt -noout -ext subjectAltName")
    root.run("find /var/lib/hipercow-slurm -mindepth 1 -maxdepth 1 -type d ! -perm 700 | grep . && exit 1 || true")


def test_programs_say_what_they_miss_before_a_site_configured_them(root: FreshRoot) -> None:
    """A traceback here would be the first thing an admin sees."""
    for program in ("api", "signer", "auksd", "agent"):
        said = root.run(f"hipercow-slurm {program} 2>&1 || echo status=$?")
        assert "status=78" in said and "keytab" in said and "Traceback" not in said, said


def test_nobodys_environment_decides_what_is_imported(root: FreshRoot) -> None:
    """PYTHONPATH and the current folder would let an attacker's `click.py` run as root's program."""
    root.run("mkdir -p /tmp/evil; echo 'raise SystemExit(99)' >/tmp/evil/click.py")
    assert "Usage" in root.run("cd /tmp/evil; PYTHONPATH=/tmp/evil hipercow-slurm --help")


def test_the_compiled_door_to_libkrb5_is_used(root: FreshRoot) -> None:
    """Without it everything works, unchecked by a compiler: nobody would notice."""
    python = "/usr/lib/hipercow-slurm/bin/python3 -Ic"
    assert root.run(f"{python} 'from hipercow_slurm.krb5 import lib; print(lib.MODE)'") == "api\n"
    libraries = "asyncpg, aiohttp, cryptography.fernet, gssapi, httptools, joserfc, prometheus_client, uvloop"
    root.run(f"{python} 'import {libraries}'")


def test_a_removed_plugin_is_not_asked_for(root: FreshRoot) -> None:
    """`apt remove` keeps configuration: a line `required .../hipercow_slurm.so` would fail every job on that node."""
    line = "/etc/slurm/plugstack.conf.d/hipercow-slurm.conf"
    root.run(f"echo '# ours' >>{line}; dpkg --remove hipercow-slurm-node hipercow-slurm-spank")
    assert root.run("grep -l hipercow_slurm /etc/slurm/plugstack.conf.d/*.conf || true") == ""
    root.run("dpkg --install --force-confold /debs/hipercow-slurm-spank_*.deb /debs/hipercow-slurm-node_*.deb")
    assert root.run(f"tail -1 {line}; ls {line}*") == f"# ours\n{line}\n"


def test_an_upgrade_keeps_keys_configuration_and_state(root: FreshRoot, tmp_path: Path) -> None:
    """A second store key cannot open the store; a second signing key is unknown to slurmctld."""
    root.run("echo '# ours' >>/etc/hipercow-slurm/api.toml; echo state >/var/lib/hipercow-slurm/api/kept")
    kept = f"sha256sum {' '.join(KEYS)} /etc/hipercow-slurm/*.toml /var/lib/hipercow-slurm/api/kept"
    before = root.run(kept)
    for package in PACKAGES:
        _newer(root, package)
    root.run("dpkg --install --force-confdef /tmp/newer/*.deb")
    assert root.run("dpkg-query -W -f '${Version}\\n' " + " ".join(PACKAGES)).split() == ["99"] * len(PACKAGES)
    assert root.run(kept) == before


def test_purge_leaves_nothing(root: FreshRoot) -> None:
    """Files, users, folders: compared with all that was written since the copy was made."""
    root.run("install -m 600 /dev/null /etc/hipercow-slurm/api.keytab")
    root.run(f"dpkg --purge {' '.join(reversed(PACKAGES))}")
    assert root.run("getent passwd | grep hcs- || true") == ""
    left = root.outside("cd /mnt/upper; find . ! -type d; find . -path '*hipercow*'").split()
    ours = sorted({path[1:] for path in left if not path[1:].startswith(NOT_OURS)})
    assert ours == ["/etc/hipercow-slurm", "/etc/hipercow-slurm/api.keytab"], "only what the operator put there stays"


def _newer(root: FreshRoot, package: str) -> None:
    """The same package as version 99, in /tmp/newer."""
    root.run(
        f"rm -rf /tmp/tree; mkdir -p /tmp/newer; dpkg-deb -R /debs/{package}_*.deb /tmp/tree;"
        "sed -i 's/^Version: .*/Version: 99/; s/(= [0-9.]*)/(= 99)/' /tmp/tree/DEBIAN/control;"
        f"dpkg-deb -Znone -b /tmp/tree /tmp/newer/{package}.deb"
    )


def test_apt_can_satisfy_what_they_depend_on(debs: Path) -> None:
    """A name that Debian 12 does not have makes a package that nobody can install."""
    environment = {**os.environ, "LANG": "C.UTF-8"}
    argv = ["apt-get", "install", "--simulate", "--no-install-recommends", *debs.glob("*.deb")]
    done = subprocess.run(argv, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
