"""What is fuzzed: functions of bytes that raise an AssertionError or a foreign exception when something is wrong."""

from __future__ import annotations

import struct
import sys
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parents[1] / "wire"))

from auks_doubles import PlainAcceptor
from auks_vectors import REPLIES, REQUESTS

from hipercow_slurm.auksconf import conf
from hipercow_slurm.auksd import acl
from hipercow_slurm.errors import ConfigError, Error, ProtocolError
from hipercow_slurm.krb5 import krbcred
from hipercow_slurm.krb5.krbcred import Ticket
from hipercow_slurm.wire import messages, sendauth
from hipercow_slurm.wire.frames import frame
from hipercow_slurm.wire.session import ServerSession

HELLO = frame(sendauth.SENDAUTH_VERSION) + frame(sendauth.APPLICATION_VERSION) + frame(b"AP-REQ alice@EX.ORG")
TICKET = Ticket(
    client="alice@EX.ORG",
    server="krbtgt/EX.ORG@EX.ORG",
    keytype=18,
    key=bytes(32),
    flags=0x50E10000,
    authtime=1_700_000_000,
    starttime=1_700_000_000,
    endtime=1_700_036_000,
    renew_till=1_700_604_800,
    # APPLICATION 1: tkt-vno 5, EX.ORG, krbtgt/EX.ORG, etype 18, two octets of cipher text
    ticket_der=bytes.fromhex(
        "6141303fa003020105a1081b0645582e4f5247a21b3019a003020102a11230101b066b72627467741b0645582e4f5247"
        "a311300fa003020112a10302010aa20304010a"
    ),
)


def frames(data: bytes) -> None:
    """A stream of bytes, whole and in two pieces: the same events, the same answers."""
    cut = data[0] if data else 0
    whole, pieces = _talk([data[1:]]), _talk([data[1 : 1 + cut], data[1 + cut :]])
    assert whole == pieces, f"{whole} != {pieces}"


def _talk(parts: list[bytes]) -> list[object]:
    session = ServerSession(PlainAcceptor())
    seen: list[object] = []
    answers = b""
    try:
        for part in parts:
            event = session.take(part) if part else session.next_event()
            while event is not None:
                seen.append(event)
                if type(event).__name__ == "Ended":
                    return [*seen, answers + session.outgoing()]
                event = session.next_event()
            answers += session.outgoing()
    except Error as error:
        seen.append((type(error).__name__, error.code))
    return [*seen, answers + session.outgoing()]


def requests(data: bytes) -> None:
    """A request."""
    try:
        found = messages.decode_request(data)
    except ProtocolError:
        return
    assert messages.encode(found) == data


def replies(data: bytes) -> None:
    """A reply; bytes behind a name or a KRB-CRED are not looked at, so it is compared as a value."""
    try:
        found = messages.decode_reply(data)
    except ProtocolError:
        return
    assert messages.decode_reply(messages.encode(found)) == found


def krb_cred(data: bytes) -> None:
    """A KRB-CRED."""
    try:
        found = krbcred.parse(data)
    except ProtocolError:
        return
    again = krbcred.build(krbcred.tickets(found))
    assert (again.client, again.times, again.tickets) == (found.client, found.times, found.tickets)


def access(data: bytes) -> None:
    """An ACL file; names of hosts are not looked up."""
    try:
        found = acl.parse(data.decode("utf-8", "replace"), "f", resolve=lambda name: set())
    except ConfigError:
        return
    found.role("alice@EX.ORG", "10.0.0.1")


def auks_conf(data: bytes) -> None:
    """An auks.conf."""
    for daemon in (False, True):
        try:
            conf.parse(data.decode("utf-8", "replace"), "f", daemon=daemon)
        except ConfigError:
            continue


RULE = b'rule { principal = "^host/.*@EX[.]ORG$" ; host = * ; role = node ; }\n'
CONF = b'common { PrimaryHost = "h" ; NAT = no ; Retries = 3 ; }\napi { LogLevel = 0 ; }\nauksd { Workers = 10 ; }\n'

# name -> the function and inputs to begin with
TARGETS: dict[str, tuple[Callable[[bytes], None], list[bytes]]] = {
    "frames": (
        frames,
        [b"\x20" + HELLO + b"".join(frame(b"S:" + bytes.fromhex(one)) for _, one in REQUESTS), b"\5" + HELLO[:30]],
    ),
    "requests": (requests, [bytes.fromhex(octets) for _, octets in REQUESTS]),
    "replies": (replies, [bytes.fromhex(octets) for _, octets in REPLIES if len(octets) < 9000]),
    "krbcred": (krb_cred, [krbcred.build([TICKET]).der, struct.pack(">I", 0)]),
    "acl": (access, [RULE, RULE * 2, b"# nothing\n"]),
    "conf": (auks_conf, [CONF, b"# nothing\n"]),
}
