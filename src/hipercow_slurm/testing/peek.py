"""Looking at tickets from inside the sandbox, for demo and tests: ``python -m hipercow_slurm.testing.peek ...``.

Prints JSON with principals, times, owners and modes; never a ticket or a key.

    peek ccache PATH      one FILE ccache on this host
    peek cache            what the credential cache holds, asked over its own wire as the host's principal
"""

from __future__ import annotations

import asyncio
import json
import socket
import sys
from pathlib import Path
from typing import Any

from hipercow_slurm.krb5 import ccache, creds


def look_at_ccache(path: Path) -> dict[str, Any]:
    """Owner, mode, principal and times of a FILE ccache; ``{"exists": False}`` when there is none."""
    try:
        found = path.lstat()
    except FileNotFoundError:
        return {"path": str(path), "exists": False}
    tgt = ccache.read_tgt(f"FILE:{path}")
    return {
        "path": str(path),
        "exists": True,
        "uid": found.st_uid,
        "mode": f"{found.st_mode & 0o7777:04o}",
        "regular": path.is_file() and not path.is_symlink(),
        "principal": tgt.client,
        "endtime": tgt.times.endtime,
        "renew_till": tgt.times.renew_till,
    }


async def look_at_cache(server: str, principal: str) -> list[dict[str, Any]]:
    """Every record of the cache at ``server`` (an admin's DUMP), without the credentials themselves."""
    from hipercow_slurm.client.auks import AuksClient

    host = creds.keytab_tgt(f"host/{socket.gethostname().split('.')[0]}.sandbox.test", "/etc/krb5.keytab")
    client = AuksClient([(server, 12345, principal)])
    records = await client.dump(auth=host)
    return [
        {
            "uid": record.uid,
            "principal": record.principal,
            "endtime": record.times.endtime,
            "renew_till": record.times.renew_till,
        }
        for record in records
    ]


def main(argv: list[str]) -> None:
    """Print one look as JSON."""
    if argv[0] == "ccache":
        seen: Any = look_at_ccache(Path(argv[1]))
    else:
        seen = asyncio.run(look_at_cache("cache.sandbox.test", "auks/head.sandbox.test@SANDBOX.TEST"))
    print(json.dumps(seen))


if __name__ == "__main__":
    main(sys.argv[1:])
