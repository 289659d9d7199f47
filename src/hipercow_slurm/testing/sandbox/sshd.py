"""ssh: into the login node with a password that PAM takes to the KDC, and as root into nodes with their own kernel.

Only sandboxes with such nodes have it; they are also the only ones that need Debian's sshd and pam_krb5.
"""

from __future__ import annotations

import shlex
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from hipercow_slurm.testing.sandbox import layout
from hipercow_slurm.testing.sandbox.hosts import Tree
from hipercow_slurm.testing.sandbox.layout import Options, fqdn
from hipercow_slurm.testing.sandbox.processes import as_user

LOGIN_CONF = "/etc/ssh/login.conf"
_KEY = "/root/.ssh/id_ed25519"
_HOST_KEY = "/etc/ssh/sandbox_host_key"

_COMMON = f"""\
HostKey {_HOST_KEY}
PidFile none
PrintMotd no
UseDNS no
"""

# pam_krb5 makes the ticket from the password that was typed, in a ccache of the session's own.
_LOGIN = f"""{_COMMON}\
UsePAM yes
PasswordAuthentication yes
KbdInteractiveAuthentication no
PubkeyAuthentication no
PermitRootLogin no
"""

_NODE = f"""{_COMMON}\
UsePAM no
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin prohibit-password
MaxStartups 100
"""

_PAM = """\
auth     required pam_krb5.so minimum_uid=1000
account  required pam_krb5.so minimum_uid=1000
account  required pam_unix.so
session  required pam_krb5.so minimum_uid=1000
session  required pam_unix.so
"""


def write_config(tree: Tree, options: Options) -> None:
    """Keys, known hosts and configuration, where there is anything to enter by ssh."""
    if not options.kernel_nodes:
        return
    root = tree.host(layout.HEAD) / "root/.ssh"
    root.mkdir(mode=0o700)
    root_key = _keygen(root / "id_ed25519")
    known = []
    for host in (layout.LOGIN, *options.kernel_nodes):
        etc = tree.etc(host) / "ssh"
        etc.mkdir(exist_ok=True)
        names = f"{fqdn(host)},{host},{options.addresses[host]}"
        known.append(f"{names} {_keygen(etc / _HOST_KEY.rpartition('/')[2])}")
        (etc / "login.conf").write_text(_LOGIN)
        (etc / "node.conf").write_text(_NODE)
        if host in options.kernel_nodes:
            authorized = tree.host(host) / "root/.ssh"
            authorized.mkdir(mode=0o700)
            (authorized / "authorized_keys").write_text(root_key)
    (tree.etc(layout.LOGIN) / "pam.d/sshd").write_text(_PAM)
    for host in (layout.HEAD, layout.LAPTOP):
        (tree.etc(host) / "ssh").mkdir(exist_ok=True)
        (tree.etc(host) / "ssh/ssh_known_hosts").write_text("".join(known))


def _keygen(path: Path) -> str:
    """Make a key pair at ``path``; the public half as a line."""
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "", "-f", str(path)], check=True)
    return path.with_name(f"{path.name}.pub").read_text()


def into_node(node: str, argv: Sequence[str], user: str, environment: Mapping[str, str]) -> list[str]:
    """What root on the head runs to run ``argv`` on a node with its own kernel as ``user``."""
    settings = [f"{name}={value}" for name, value in environment.items()]
    command = ["cd", "/", "&&", "exec", "env", "-i", *settings, *as_user(user), *argv]
    quoted = " ".join(word if word == "&&" else shlex.quote(word) for word in command)
    return ["ssh", "-q", "-i", _KEY, "-o", "BatchMode=yes", "-o", "ConnectTimeout=20", f"root@{fqdn(node)}", quoted]
