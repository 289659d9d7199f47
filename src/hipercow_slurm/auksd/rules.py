"""The rules of a configuration: from its ACL file, or from the ``[[rule]]`` tables of the TOML file itself."""

from __future__ import annotations

from pathlib import Path

from hipercow_slurm.auksconf.grammar import Block, Setting
from hipercow_slurm.auksd import acl
from hipercow_slurm.auksd.config import Config
from hipercow_slurm.auksd.from_auks import FromAuks


def load(config: Config) -> acl.Acl:
    """Read the rules; blocks while names of hosts are resolved.

    An ACL beside an ``auks.conf`` must work as it did: an expression that does not compile matches nobody there, and
    is a warning; in a configuration of our own it is an error.

    Raises:
        ConfigError: as ``acl.load``.
    """
    if config.auksd.acl is not None:
        return acl.load(Path(config.auksd.acl), lenient=isinstance(config, FromAuks))
    return acl.of_blocks(blocks(config), "[[rule]]")


def blocks(config: Config) -> list[Block]:
    """The ``[[rule]]`` tables as blocks of AUKS' grammar; a block's line is the number of its table."""
    return [
        Block("rule", tuple(Setting(key, getattr(rule, key), number) for key in ("principal", "host", "role")), number)
        for number, rule in enumerate(config.rule, start=1)
    ]
