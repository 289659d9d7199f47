"""gssproxy between a program and the ticket that the agent wrote: whose ticket reaches the server.

What docs/how-to/gssproxy.md says. A real gssproxy and its real interposer plugin; rpc.gssd is not in it (the kernel's
part needs an NFS client), so the program that asks is an ordinary GSS-API client under the user's uid.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from hipercow_slurm.testing.realm import Realm

UID = 5001
SETTINGS = """\
[gssproxy]
[service/nfs-client]
  mechs = krb5
  cred_store = keytab:{folder}/host.keytab
  cred_store = ccache:FILE:{folder}/clients/krb5cc_%U
{more}  cred_usage = initiate
  allow_any_uid = yes
  trusted = yes
  euid = 0
"""
KEYTAB = "  cred_store = client_keytab:{folder}/clients/%U.keytab\n"
# What rpc.gssd does for a mount, without the mount: a token for the file server out of whatever credential there is.
ASK = """\
import base64, gssapi
krb5 = gssapi.MechType.kerberos
name = gssapi.Name("nfs/files.test@REALM.TEST", gssapi.NameType.kerberos_principal)
try:
    print(base64.b64encode(gssapi.SecurityContext(name=name, usage="initiate", mech=krb5).step()).decode())
except gssapi.exceptions.GSSError:
    print("nothing")
"""
ACCEPT = """\
import base64, sys, gssapi
context = gssapi.SecurityContext(usage="accept")
context.step(base64.b64decode(sys.stdin.read()))
print(context.initiator_name)
"""


@dataclass
class Node:
    """A node's folder, with the agent's ccache of alice and, if a test puts it there, a keytab of svc."""

    folder: Path
    realm: Realm

    def sees(self, more: str = "", *, ticket: bool = True, behaviour: str | None = None) -> str:
        """The principal that the file server sees; "nothing": no token could be made."""
        socket = self.folder / "gssproxy.sock"
        config = self.folder / "gssproxy.conf"
        config.write_text(SETTINGS.format(folder=self.folder, more=more.format(folder=self.folder)))
        env = {"PATH": os.environ["PATH"], **self.realm.env}
        argv = ["gssproxy", "-i", "-c", str(config), "-C", str(self.folder / "none"), "-s", str(socket)]
        proxy = subprocess.Popen(argv, env=env, stderr=subprocess.DEVNULL)
        try:
            end = time.monotonic() + 20
            while not socket.exists():
                assert time.monotonic() < end and proxy.poll() is None, "gssproxy did not start"
                time.sleep(0.05)
            asked = {**env, "GSS_USE_PROXY": "yes", "GSSPROXY_SOCKET": str(socket)}
            asked |= {"GSSPROXY_BEHAVIOR": behaviour} if behaviour else {}
            asked |= {"KRB5CCNAME": f"FILE:{self.folder}/krb5cc_{UID}_17" if ticket else f"FILE:{self.folder}/none/cc"}
            as_user = ["setpriv", "--reuid", str(UID), "--regid", str(UID), "--clear-groups"]
            token = _output([*as_user, sys.executable, "-c", ASK], asked)
        finally:
            proxy.terminate()
            proxy.wait(20)
            socket.unlink(missing_ok=True)
        if token == "nothing":
            return token
        server = {**env, "KRB5_KTNAME": str(self.folder / "nfs.keytab"), "KRB5RCACHENAME": "none:"}
        return _output([sys.executable, "-c", ACCEPT], server, token)

    def keytab(self) -> None:
        """A service account's keytab, in the place that gssproxy looks at."""
        self.realm.keytab(self.folder / "clients" / f"{UID}.keytab", "svc")


def _output(argv: list[str], env: dict[str, str], given: str = "") -> str:
    done = subprocess.run(argv, env=env, input=given, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.fixture
def node() -> Iterator[Node]:
    # Not pytest's own folder: the user must be able to enter it.
    folder = Path(tempfile.mkdtemp(prefix="hcs-gssproxy-"))
    folder.chmod(0o755)
    try:
        with Realm(folder / "realm") as realm:
            realm.add_user("alice", "hers")
            realm.add_user("svc", "its")
            realm.add_service("nfs/files.test")
            realm.add_service("host/node.test")
            realm.keytab(folder / "host.keytab", "host/node.test")
            realm.keytab(folder / "nfs.keytab", "nfs/files.test")
            for name in ("clients", "none"):
                (folder / name).mkdir()
            ccache = folder / f"krb5cc_{UID}_17"
            realm.kinit("alice", "hers", f"FILE:{ccache}")
            os.chown(ccache, UID, UID)
            for path in (realm.krb5_conf, *realm.krb5_conf.parents):
                if path.is_relative_to(folder):
                    path.chmod(0o755)
            yield Node(folder, realm)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def test_gssproxy_with_nothing_for_a_user_leaves_the_agents_ticket(node: Node) -> None:
    """The usual Red Hat node: nothing to configure."""
    assert node.sees() == "alice@REALM.TEST"
    assert node.sees(behaviour="LOCAL_FIRST") == "alice@REALM.TEST"
    assert node.sees(ticket=False) == "nothing", "and when the job is over, nobody's"


def test_a_users_keytab_hides_the_agents_ticket_unless_local_comes_first(node: Node) -> None:
    """Jobs of the user reach the server as somebody else, for ever: the page must say so, and what helps."""
    assert node.sees(KEYTAB) == "alice@REALM.TEST", "no keytab of hers there"
    node.keytab()
    assert node.sees(KEYTAB) == "svc@REALM.TEST"
    assert node.sees(KEYTAB, behaviour="LOCAL_FIRST") == "alice@REALM.TEST"
    assert node.sees(KEYTAB, ticket=False, behaviour="LOCAL_FIRST") == "svc@REALM.TEST"
