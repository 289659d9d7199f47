"""Fixtures that several files share: a laptop where nobody, and one where alice, has logged in."""

from cli_laptop import alice, nobody, server, tls

__all__ = ["alice", "nobody", "server", "tls"]
