"""MIT's own krb5_sendauth, krb5_recvauth, krb5_mk_ncred and krb5_rd_cred, for tests to talk to.

Bound apart from the product, by dlopen; run them in a thread or a forked child, they block on their socket.
"""

from __future__ import annotations

import socket
from typing import Any

import cffi

from hipercow_slurm.krb5.cdef import CDEF

EXTRA = """
krb5_error_code krb5_sendauth(krb5_context, krb5_auth_context *, int *, char *, krb5_principal, krb5_principal,
    int32_t, krb5_data *, krb5_creds *, krb5_ccache, krb5_error **, krb5_ap_rep_enc_part **, krb5_creds **);
krb5_error_code krb5_recvauth(krb5_context, krb5_auth_context *, int *, char *, krb5_principal, int32_t,
    krb5_keytab, krb5_ticket **);
krb5_error_code krb5_mk_ncred(krb5_context, krb5_auth_context, krb5_creds **, krb5_data **, krb5_replay_data *);
krb5_error_code krb5_unparse_name(krb5_context, krb5_principal, char **);
"""

VERSION = b"0.1"
DO_SEQUENCE, USE_SUBKEY = 4, 0x20
MUTUAL_AND_SUBKEY = 0x20000001


class MitError(Exception):
    """A libkrb5 call failed; holds its number and MIT's text."""


class Mit:
    """libkrb5 with one context; not for several threads at once."""

    def __init__(self) -> None:
        self.ffi = cffi.FFI()
        self.ffi.cdef(CDEF + EXTRA)
        self.lib = self.ffi.dlopen("libkrb5.so.3")
        holder = self.ffi.new("krb5_context *")
        assert self.lib.krb5_init_context(holder) == 0
        self.context = holder[0]

    def sendauth(self, sock: socket.socket, service: str, ccache: str, *, nat: bool = False) -> MitPeer:
        """Authenticate to the peer as the client of ``ccache``, as the stock auks client does."""
        auth, cache = self._auth(sock), self.ffi.new("krb5_ccache *")
        self.check(self.lib.krb5_cc_resolve(self.context, ccache.encode(), cache))
        code = self.lib.krb5_sendauth(
            self.context,
            auth,
            self.ffi.new("int *", sock.fileno()),
            self.ffi.new("char[]", VERSION),
            self.ffi.NULL,
            self._principal(service),
            MUTUAL_AND_SUBKEY,
            *[self.ffi.NULL] * 2,
            cache[0],
            *[self.ffi.NULL] * 3,
        )
        self.check(code)
        return MitPeer(self, auth[0], nat)

    def recvauth(self, sock: socket.socket, service: str, keytab: str, *, nat: bool = False) -> MitPeer:
        """Take a client's authentication, as the original auksd does: no acceptor subkey."""
        auth, keys = self._auth(sock), self.ffi.new("krb5_keytab *")
        self.check(self.lib.krb5_kt_resolve(self.context, keytab.encode(), keys))
        code = self.lib.krb5_recvauth(
            self.context,
            auth,
            self.ffi.new("int *", sock.fileno()),
            self.ffi.new("char[]", VERSION),
            self._principal(service),
            0,
            keys[0],
            self.ffi.NULL,
        )
        self.check(code)
        return MitPeer(self, auth[0], nat)

    def mk_ncred(self, ccache: str) -> bytes:
        """The first credential of a ccache as a KRB-CRED without key, as the auks client makes it."""
        cache, cursor = self.ffi.new("krb5_ccache *"), self.ffi.new("krb5_cc_cursor *")
        self.check(self.lib.krb5_cc_resolve(self.context, ccache.encode(), cache))
        self.check(self.lib.krb5_cc_start_seq_get(self.context, cache[0], cursor))
        creds = self.ffi.new("krb5_creds *")
        self.check(self.lib.krb5_cc_next_cred(self.context, cache[0], cursor, creds))
        auth, out = self.ffi.new("krb5_auth_context *"), self.ffi.new("krb5_data **")
        self.check(self.lib.krb5_auth_con_init(self.context, auth))
        self.lib.krb5_auth_con_setflags(self.context, auth[0], 0)
        listed = self.ffi.new("krb5_creds *[]", [creds, self.ffi.NULL])
        self.check(self.lib.krb5_mk_ncred(self.context, auth[0], listed, out, self.ffi.NULL))
        return bytes(self.ffi.buffer(out[0].data, out[0].length))

    def kinit_bound(
        self, principal: str, password: str, addresses: list[bytes], ccache: str, *, renew_s: int = 0
    ) -> None:
        """Fill a ccache with a TGT bound to these IPv4 addresses (kinit -a takes those of the host's interfaces)."""
        options, creds = self.ffi.new("krb5_get_init_creds_opt **"), self.ffi.new("krb5_creds *")
        self.check(self.lib.krb5_get_init_creds_opt_alloc(self.context, options))
        made = [self._address(octets) for octets in addresses]
        listed = self.ffi.new("krb5_address *[]", [address for address, _ in made] + [self.ffi.NULL])
        self.lib.krb5_get_init_creds_opt_set_address_list(options[0], listed)
        self.lib.krb5_get_init_creds_opt_set_forwardable(options[0], 1)
        self.lib.krb5_get_init_creds_opt_set_renew_life(options[0], renew_s)
        name, null, cache = self._principal(principal), self.ffi.NULL, self.ffi.new("krb5_ccache *")
        got = self.lib.krb5_get_init_creds_password(
            self.context, creds, name, password.encode(), null, null, 0, null, options[0]
        )
        self.check(got)
        self.check(self.lib.krb5_cc_resolve(self.context, ccache.encode(), cache))
        self.check(self.lib.krb5_cc_initialize(self.context, cache[0], name))
        self.check(self.lib.krb5_cc_store_cred(self.context, cache[0], creds))
        self.check(self.lib.krb5_cc_close(self.context, cache[0]))

    def rd_cred(self, der: bytes) -> list[tuple[str, str, bytes, int]]:
        """Client, server, session key and endtime of each ticket, as MIT reads a KRB-CRED."""
        auth, found = self.ffi.new("krb5_auth_context *"), self.ffi.new("krb5_creds ***")
        self.check(self.lib.krb5_auth_con_init(self.context, auth))
        self.lib.krb5_auth_con_setflags(self.context, auth[0], 0)
        self.check(self.lib.krb5_rd_cred(self.context, auth[0], self.data(der), found, self.ffi.NULL))
        result, number = [], 0
        while found[0][number] != self.ffi.NULL:
            one = found[0][number]
            key = bytes(self.ffi.buffer(one.keyblock.contents, one.keyblock.length))
            result.append((self._text(one.client), self._text(one.server), key, one.times.endtime & 0xFFFFFFFF))
            number += 1
        return result

    def parse_name(self, text: str) -> tuple[tuple[bytes, ...], bytes] | None:
        """Components and realm, or None if MIT refuses the text."""
        holder = self.ffi.new("krb5_principal *")
        if self.lib.krb5_parse_name(self.context, text.encode(), holder):
            return None
        name = holder[0]
        parts = [bytes(self.ffi.buffer(d.data, d.length)) for d in (name.data[n] for n in range(name.length))]
        return tuple(parts), bytes(self.ffi.buffer(name.realm.data, name.realm.length))

    def unparse_name(self, text: str) -> str:
        """Text of a principal after MIT parsed and wrote it again."""
        return self._text(self._principal(text))

    def check(self, code: int) -> None:
        """Raise MitError unless 0."""
        if code:
            text = self.ffi.string(self.lib.krb5_get_error_message(self.context, code)).decode()
            raise MitError(code, text)

    def data(self, octets: bytes) -> Any:
        """A krb5_data over a copy of the octets that lives as long as this object."""
        data, keep = self.ffi.new("krb5_data *"), self.ffi.new("char[]", octets)
        data.length, data.data = len(octets), keep
        self._keep = [*getattr(self, "_keep", []), keep]
        return data

    def _auth(self, sock: socket.socket) -> Any:
        auth = self.ffi.new("krb5_auth_context *")
        self.check(self.lib.krb5_auth_con_init(self.context, auth))
        self.lib.krb5_auth_con_setflags(self.context, auth[0], DO_SEQUENCE)
        self.set_addresses(auth[0], socket.inet_aton(sock.getsockname()[0]), socket.inet_aton(sock.getpeername()[0]))
        return auth

    def set_addresses(self, auth: Any, local: bytes, remote: bytes) -> None:
        """Addresses of type 2 in an auth context."""
        (own, _keep_own), (peer, _keep_peer) = self._address(local), self._address(remote)
        self.check(self.lib.krb5_auth_con_setaddrs(self.context, auth, own, peer))

    def _address(self, octets: bytes) -> tuple[Any, Any]:
        address, keep = self.ffi.new("krb5_address *"), self.ffi.new("unsigned char[]", octets)
        address.addrtype, address.length, address.contents = 2, len(octets), keep
        return address, keep

    def _principal(self, text: str) -> Any:
        holder = self.ffi.new("krb5_principal *")
        self.check(self.lib.krb5_parse_name(self.context, text.encode(), holder))
        return holder[0]

    def _text(self, principal: Any) -> str:
        holder = self.ffi.new("char **")
        self.check(self.lib.krb5_unparse_name(self.context, principal, holder))
        return str(self.ffi.string(holder[0]).decode())


class MitPeer:
    """An authenticated MIT end: seals and unseals with krb5_mk_priv and krb5_rd_priv."""

    def __init__(self, mit: Mit, auth: Any, nat: bool) -> None:
        self.mit, self.auth = mit, auth
        if nat:
            mit.set_addresses(auth, b"dummy", b"dummy")

    def seal(self, octets: bytes) -> bytes:
        """A KRB-PRIV."""
        out = self.mit.ffi.new("krb5_data *")
        source = self.mit.data(octets)
        self.mit.check(self.mit.lib.krb5_mk_priv(self.mit.context, self.auth, source, out, self.mit.ffi.NULL))
        return bytes(self.mit.ffi.buffer(out.data, out.length))

    def unseal(self, octets: bytes) -> bytes:
        """What is in a KRB-PRIV."""
        out = self.mit.ffi.new("krb5_data *")
        source = self.mit.data(octets)
        self.mit.check(self.mit.lib.krb5_rd_priv(self.mit.context, self.auth, source, out, self.mit.ffi.NULL))
        return bytes(self.mit.ffi.buffer(out.data, out.length))


def send_frame(sock: socket.socket, octets: bytes) -> None:
    """u32 length, then the octets."""
    sock.sendall(len(octets).to_bytes(4, "big") + octets)


def read_frame(sock: socket.socket) -> bytes:
    """The next frame's octets."""
    return read_exactly(sock, int.from_bytes(read_exactly(sock, 4), "big"))


def read_exactly(sock: socket.socket, count: int) -> bytes:
    """So many bytes, or EOFError."""
    octets = b""
    while len(octets) < count:
        more = sock.recv(count - len(octets))
        if not more:
            raise EOFError(f"{len(octets)} of {count} bytes, then EOF")
        octets += more
    return octets
