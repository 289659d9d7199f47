"""A transport that writes the head of an answer together with its body: one TLS record and one system call less."""

from __future__ import annotations

import asyncio
from typing import Any


class OneWrite:
    """The transport it is made of, but what is written first waits for more until the event loop's next turn.

    uvicorn writes head and body apart. The body of most answers comes at once; of a stream, perhaps much later.
    """

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self.is_closing = transport.is_closing  # asked for with each request
        self._loop = loop
        self._head: bytes | None = None
        self.expecting = False  # the next write is the head of an answer

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        if self._head is not None:
            head, self._head = self._head, None
            self._transport.write(head + data)
        elif self.expecting:
            self.expecting, self._head = False, data
            self._loop.call_soon(self._flush)
        else:
            self._transport.write(data)

    def close(self) -> None:
        self._flush()
        self._transport.close()

    def _flush(self) -> None:
        if self._head is not None:
            head, self._head = self._head, None
            self._transport.write(head)
