"""A real FreeRADIUS on a free port, which knows a few users' codes: what a KDC asks about one-time passwords."""

from __future__ import annotations

import secrets
import subprocess
import time
from pathlib import Path

from hipercow_slurm.testing.ports import free_port

CONF = """\
name = radiusd
prefix = /usr
localstatedir = {dir}
logdir = {dir}
raddbdir = {dir}
run_dir = {dir}
libdir = /usr/lib/freeradius
pidfile = {dir}/pid
security {{
    allow_core_dumps = no
    max_attributes = 200
    reject_delay = 0
    status_server = no
}}
client localhost {{
    ipaddr = 127.0.0.1
    secret = {secret}
}}
modules {{
    files {{
        usersfile = {dir}/users
    }}
    pap {{
    }}
}}
server default {{
    listen {{
        type = auth
        ipaddr = 127.0.0.1
        port = {port}
    }}
    authorize {{
        files
        pap
    }}
    authenticate {{
        pap
    }}
}}
"""


class Radius:
    """``with Radius(dir, {"alice": "123456"}) as radius``; ``radius.kdc_conf`` goes into kdc.conf."""

    def __init__(self, dir: Path, codes: dict[str, str]) -> None:
        self.dir = dir
        self.codes = codes
        self.port = free_port()
        self._secret = secrets.token_hex(16)
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def kdc_conf(self) -> str:
        """The [otp] section: users whose token type is ``radius`` are asked about there."""
        return (
            "[otp]\n    radius = {\n"
            f"        server = 127.0.0.1:{self.port}\n        secret = {self.dir}/secret\n"
            "        strip_realm = true\n        timeout = 2\n        retries = 1\n    }\n"
        )

    def __enter__(self) -> Radius:
        self.dir.mkdir(parents=True, exist_ok=True)
        (self.dir / "secret").write_text(self._secret)
        (self.dir / "users").write_text("".join(f'{n} Cleartext-Password := "{c}"\n' for n, c in self.codes.items()))
        (self.dir / "radiusd.conf").write_text(CONF.format(dir=self.dir, secret=self._secret, port=self.port))
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        log = self.dir / "radius.log"
        command = ["freeradius", "-f", "-d", str(self.dir), "-n", "radiusd", "-l", str(log)]
        before = len(log.read_bytes()) if log.exists() else 0
        self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL)
        end = time.monotonic() + 20
        while not (log.exists() and b"Ready to process requests" in log.read_bytes()[before:]):
            assert self._process.poll() is None and time.monotonic() < end, log.read_text() if log.exists() else "?"
            time.sleep(0.02)

    def stop(self) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait(10)
            self._process = None
