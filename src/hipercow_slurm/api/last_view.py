"""The cluster as somebody saw it last, kept in the database: all processes and hosts answer strangers alike.

Functions return the work for ``Database.run``; times are Unix seconds. The view is row 1; row 0 is what ``health.py``
writes to find out whether it can.
"""

from __future__ import annotations

import msgspec

from hipercow_slurm.api.database import Act, Transaction
from hipercow_slurm.slurm.model import Node, Partition


class Seen(msgspec.Struct, frozen=True):
    """Partitions and nodes as one user saw them."""

    partitions: list[Partition]
    nodes: list[Node]


def keep(seen: Seen, at: int) -> Act[None]:
    """Keep this, unless another process kept something newer."""
    encoded = msgspec.json.encode(seen)

    async def act(transaction: Transaction) -> None:
        await transaction.change(
            "INSERT INTO last_view (one, at, seen) VALUES (1, $1, $2)"
            " ON CONFLICT (one) DO UPDATE SET at = excluded.at, seen = excluded.seen WHERE last_view.at <= excluded.at",
            at,
            encoded,
        )

    return act


def since(at: int) -> Act[tuple[int, Seen] | None]:
    """What was seen last and when, unless that was before ``at``."""

    async def act(transaction: Transaction) -> tuple[int, Seen] | None:
        rows = await transaction.rows("SELECT at, seen FROM last_view WHERE one = 1 AND at >= $1", at)
        return (rows[0][0], msgspec.json.decode(rows[0][1], type=Seen)) if rows else None

    return act
