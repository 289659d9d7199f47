"""A daemon with a squeue of ours, and one connection to it, request by request."""

from __future__ import annotations

import signal
import socket
import urllib.error
import urllib.request
from pathlib import Path

from auksd_box import SERVICE, Auksd

from hipercow_slurm.krb5.auth import Initiator
from hipercow_slurm.testing.story import eventually
from hipercow_slurm.wire import messages as m
from hipercow_slurm.wire.frames import frame
from hipercow_slurm.wire.session import Authenticated, ClientSession


class Site(Auksd):
    """A daemon whose squeue is a script of ours: what it says is in the file ``jobs``; without it, it fails."""

    def __init__(self, folder: Path, realm_folder: Path, *, extra: str = "", sections: str = "") -> None:
        super().__init__(folder, realm_folder, extra=extra)
        self.jobs = folder / "jobs"
        self.jobs.write_text("")
        (folder / "squeue").write_text(f"cat {self.jobs}\n")
        oracle = f'[oracle]\ncommand = ["sh", "{folder / "squeue"}"]\ninterval_s = 0.1\npositive_s = 0\n'
        self.config.write_text(self.config.read_text() + oracle + sections)

    def signal(self, number: signal.Signals, event: str) -> str:
        """Send a signal and wait for the log line it causes."""
        already = len(self.lines(event))
        self.process.send_signal(number)
        eventually(event, lambda: len(self.lines(event)) > already, within_s=30, every_s=0.02)
        return self.lines(event)[-1]

    def acl(self, text: str) -> None:
        (self.folder / "auksd.acl").write_text(text)

    def listening(self) -> str:
        return self.lines("auksd.metrics")[-1].split("address=")[1].split()[0]

    def web(self, path: str) -> tuple[int, str]:
        try:
            with urllib.request.urlopen(f"http://{self.listening()}{path}", timeout=5) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()


class Talk:
    """One connection, kept."""

    def __init__(self, auksd: Auksd, cred) -> None:
        self.sock = socket.create_connection(("127.0.0.1", auksd.port), timeout=15)
        ip = socket.inet_aton("127.0.0.1")
        self.initiator = Initiator(cred, f"{SERVICE}@REALM.TEST", local=ip, remote=ip)
        self.session = ClientSession(self.initiator)
        self.sock.sendall(self.session.start())
        assert isinstance(self.event(), Authenticated)

    def event(self):
        while (event := self.session.next_event()) is None:
            self.session.receive(self.sock.recv(65536))
        return event

    def ask(self, request):
        self.sock.sendall(frame(self.initiator.seal(m.encode(request))))
        return self.event()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.sock.close()
