"""From a compute node's principal, ``host/c1.example.org@REALM``, to the name Slurm has for that node.

Rule 1: only a name the site has said how to map is mapped; the rest is refused, never guessed, because the answer
decides whose tickets that machine may fetch. Rule 2: Kerberos and Slurm both tell upper from lower case, so do we.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from hipercow_slurm.errors import AccessError, ConfigError

_LABEL = r"[A-Za-z0-9](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9])?"
_HOST = re.compile(rf"{_LABEL}(?:\.{_LABEL})*")
_NODE = re.compile(r"[A-Za-z0-9._-]{1,253}")


@dataclass(frozen=True)
class NodeNames:
    """How this site maps host names to Slurm's node names.

    The first that knows the host answers: ``table`` (host -> node), ``pattern`` (a regular expression with a group
    ``node``, matched against the whole host name), ``domains`` (strip ``.domain``, the rest is the node), and last a
    host name without a dot, which is the node's name itself.

    Raises:
        ConfigError: the pattern does not compile or has no group ``node``; a table entry is no node name.
    """

    realm: str
    domains: Sequence[str] = ()
    table: Mapping[str, str] = field(default_factory=dict)
    pattern: str | None = None
    service: str = "host"

    def __post_init__(self) -> None:
        for host, node in self.table.items():
            if not _NODE.fullmatch(node):
                raise ConfigError(f"node table: {host!r} maps to {node!r}, which is no node name")
        if self.pattern is None:
            return
        try:
            groups = re.compile(self.pattern).groupindex
        except re.error as error:
            raise ConfigError(f"node pattern {self.pattern!r}: {error}") from error
        if "node" not in groups:
            raise ConfigError(f"node pattern {self.pattern!r} has no group (?P<node>...)")

    def node_of(self, host: str) -> str | None:
        """Slurm's name for ``host``, or None if nothing says what it is."""
        if host in self.table:
            return self.table[host]
        if self.pattern is not None and (match := re.fullmatch(self.pattern, host)) and match["node"]:
            return match["node"]
        for domain in self.domains:
            node = host.removesuffix(f".{domain.lstrip('.')}")
            if node != host:
                return node
        return host if "." not in host else None


def node_of_principal(principal: str, names: NodeNames) -> str:
    """Slurm's node name for the principal ``service/HOST@REALM``.

    Raises:
        AccessError: code ``not-a-node``: another service or realm, not a host name, or a host the site has not
            mapped.
    """
    # No backslash quoting here: a quoted component is not a host name, so it fails the match below.
    name, at, realm = principal.rpartition("@")
    service, slash, host = name.partition("/")
    if not at or realm != names.realm or not slash or service != names.service:
        raise _refused(principal, f"not {names.service}/HOST@{names.realm}")
    if len(host) > 253 or not _HOST.fullmatch(host):
        raise _refused(principal, "its second part is not a host name")
    node = names.node_of(host)
    if node is None or not _NODE.fullmatch(node):
        raise _refused(principal, "no rule maps that host to a node", hint="set node domains, table or pattern")
    return node


def _refused(principal: str, why: str, *, hint: str | None = None) -> AccessError:
    return AccessError(f"{principal[:300]!r} is not a compute node: {why}", code="not-a-node", hint=hint)
