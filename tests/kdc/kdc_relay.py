"""Datagrams between us and a KDC, passed on, dropped, doubled or held back as a test wants."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Sequence
from types import TracebackType

from krb5_box import Kdc

Answers = Callable[[int, bytes], Sequence[bytes]]


def passed_on(_number: int, answer: bytes) -> Sequence[bytes]:
    """What a network does on most days."""
    return [answer]


class Relay:
    """A UDP port that stands for the KDC.

    Args:
        answers: what the asker is sent for its request of this number and the KDC's answer to it.

    Attributes:
        askers: the port each request came from.
    """

    def __init__(self, kdc: Kdc, answers: Answers = passed_on) -> None:
        self.answers = answers
        self.askers: list[int] = []
        self._kdc = (kdc.realm.host, kdc.realm.port)
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind(("127.0.0.1", 0))
        self.port: int = self._socket.getsockname()[1]
        self._thread = threading.Thread(target=self._run, daemon=True)

    def _run(self) -> None:
        while True:
            request, asker = self._socket.recvfrom(65536)
            if not request:
                return
            self.askers.append(asker[1])
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as ask:
                ask.settimeout(20)
                ask.sendto(request, self._kdc)
                answer = ask.recv(65536)
            for one in self.answers(len(self.askers), answer):
                self._socket.sendto(one, asker)

    def __enter__(self) -> Relay:
        self._thread.start()
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self._socket.sendto(b"", ("127.0.0.1", self.port))
        self._thread.join(30)
        self._socket.close()
