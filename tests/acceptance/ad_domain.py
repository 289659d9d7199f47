"""A real Active Directory domain controller (Samba's) in the shape of ``testing.realm.Realm``, as ApiBox wants it.

It listens on fixed ports (53, 88, 389, 445, 464 ...), so it only runs in a network namespace of its own, with a mount
namespace in which /var/lib/samba, /etc/hosts and /etc/resolv.conf are its own too: ``test_active_directory.py``.
Measured with Samba 4.17 (Heimdal's KDC): made in 5 s of CPU, answers 3 s after its start.
"""

from __future__ import annotations

import socket
import subprocess
import time
from pathlib import Path

from hipercow_slurm.testing.realm import Realm

ADDRESS = "10.203.7.1"
AES = 24  # msDS-SupportedEncryptionTypes: AES128 and AES256; without it a service's keytab has RC4 only

SET_ATTRIBUTE = """
import sys
import ldb
from samba.auth import system_session
from samba.param import LoadParm
from samba.samdb import SamDB
conf, account, name, value = sys.argv[1:]
lp = LoadParm(); lp.load(conf)
sam = SamDB(session_info=system_session(), lp=lp)
(found,) = sam.search(expression=f"(sAMAccountName={account})", attrs=["dn"])
change = ldb.Message(found.dn)
change[name] = ldb.MessageElement(value, ldb.FLAG_MOD_REPLACE, name)
sam.modify(change)
"""


SET_PASSWORD = """
import sys
from samba.auth import system_session
from samba.param import LoadParm
from samba.samdb import SamDB
conf, account, change = sys.argv[1:]
lp = LoadParm(); lp.load(conf)
sam = SamDB(session_info=system_session(), lp=lp)
sam.setpassword(f"(sAMAccountName={account})", sys.stdin.read(), force_change_at_next_login=change == "change")
"""


class Domain(Realm):
    """The domain REALM.TEST; ``add_user``, ``add_service``, ``keytab`` as those of an MIT realm."""

    def __init__(self, dir: Path, **options: object) -> None:
        super().__init__(dir, port=88, host=ADDRESS, domains=tuple(options["domains"]), passwords_change=True)
        self.admin_port, self.kpasswd_port = 749, 464
        self._conf = self.dir / "dc/etc/smb.conf"
        self._samba: subprocess.Popen[bytes] | None = None

    @property
    def log(self) -> str:
        path = self.dir / "samba.log"
        return path.read_text(errors="replace") if path.exists() else ""

    def start(self) -> Realm:
        self.dir.mkdir(parents=True)
        self.write_config()
        made = subprocess.run(
            [
                *("samba-tool", "domain", "provision", "--server-role=dc", "--use-rfc2307", "--domain=TEST"),
                *("--dns-backend=SAMBA_INTERNAL", f"--realm={self.name}"),
                *(f"--targetdir={self.dir / 'dc'}", "--host-name=dc1", f"--host-ip={ADDRESS}"),
                *(f"--option=interfaces=lo {ADDRESS}/24", "--option=bind interfaces only=yes"),
            ],
            capture_output=True,
            text=True,
        )
        said = [line for line in (made.stdout + made.stderr).splitlines() if "password" not in line.lower()]
        assert made.returncode == 0, "\n".join(said[-40:])
        with (self.dir / "samba.log").open("wb") as out:
            command = ["samba", "-i", "-M", "single", "-s", str(self._conf), "--debug-stdout", "-d1"]
            self._samba = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=out)
        end = time.monotonic() + 60
        while time.monotonic() < end:
            assert self._samba.poll() is None, self.log[-2000:]
            with socket.socket() as kdc:
                if kdc.connect_ex((ADDRESS, 88)) == 0:
                    return self
            time.sleep(0.1)
        raise AssertionError(f"the domain controller does not answer: {self.log[-2000:]}")

    def stop(self) -> None:
        if self._samba is not None:
            self._samba.terminate()
            self._samba.wait(20)
            self._samba = None

    def tool(self, *arguments: str) -> str:
        """samba-tool on the domain's own database."""
        done = subprocess.run(
            ["samba-tool", *arguments, "-s", str(self._conf)], capture_output=True, text=True, timeout=120
        )
        assert done.returncode == 0, f"samba-tool {arguments[:2]}: {done.stdout}{done.stderr}"
        return done.stdout

    def add_user(self, name: str, password: str, **attributes: str | bool) -> str:
        self.tool("user", "create", name, "--random-password")
        self._script(SET_PASSWORD, name, "change" if attributes.get("needchange") else "keep", input=password)
        if attributes.get("allow_tix") is False:
            self.tool("user", "disable", name)
        return f"{name}@{self.name}"

    def add_service(self, name: str, **attributes: str | bool) -> str:
        """An account svc-SERVICE whose service principal is ``name``."""
        account = f"svc-{name.partition('/')[0].lower()}"
        self.tool("user", "create", account, "--random-password")
        self.tool("spn", "add", name, account)
        self.set_attribute(account, "msDS-SupportedEncryptionTypes", str(AES))
        return f"{name}@{self.name}"

    def set_attribute(self, account: str, name: str, value: str) -> None:
        self._script(SET_ATTRIBUTE, account, name, value)

    def _script(self, script: str, *arguments: str, input: str = "") -> None:
        """A few lines with Samba's own Python, for what samba-tool has no command, or only with a password in it."""
        done = subprocess.run(
            ["/usr/bin/python3", "-c", script, str(self._conf), *arguments],
            input=input,
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == 0, done.stderr

    def keytab(self, path: Path, *principals: str) -> Path:
        for name in principals:
            self.tool("domain", "exportkeytab", str(path), f"--principal={name}")
        return path
