"""Runs on a node as root, with the node's own key: a JSON list of calls a line in, one of answers a line out.

Calls, one after the other: ["get", uid], ["add", uid], ["remove", uid], ["dump"], ["ping"]. ``add`` offers what an
earlier ``get`` of that uid gave.
"""

from __future__ import annotations

import asyncio
import json
import socket
import sys
import time
from typing import Any

from hipercow_slurm.client.auks import AuksClient, Limits
from hipercow_slurm.errors import Error
from hipercow_slurm.krb5 import creds
from hipercow_slurm.values import KrbCred

node = socket.gethostname().split(".")[0]
tgt = creds.keytab_tgt(f"host/{node}.sandbox.test", "/etc/krb5.keytab")
client = AuksClient([("head.sandbox.test", 12345, "auks/head.sandbox.test@SANDBOX.TEST")], limits=Limits(rounds=1))
seen: dict[int, KrbCred] = {}


async def answer(call: list[Any]) -> dict[str, Any]:
    began = time.monotonic()
    try:
        match call:
            case ["get", uid]:
                cred = await client.get(uid, auth=tgt)
                if cred is not None:
                    seen[uid] = cred
                told: dict[str, Any] = {"client": cred and cred.client, "endtime": cred and cred.times.endtime}
            case ["add", uid]:
                await client.add(seen[uid], auth=tgt)
                told = {"added": True}
            case ["remove", uid]:
                told = {"removed": await client.remove(uid, auth=tgt)}
            case ["dump"]:
                told = {"records": len(await client.dump(auth=tgt))}
            case _:
                await client.ping(auth=tgt)
                told = {"pong": True}
    except Error as error:
        told = {"code": error.code, "why": error.message}
    return told | {"seconds": time.monotonic() - began}


async def main() -> None:
    while line := await asyncio.to_thread(sys.stdin.readline):
        print(json.dumps([await answer(call) for call in json.loads(line)]), flush=True)


asyncio.run(main())
