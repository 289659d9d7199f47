"""Runs on the sandbox's head and keeps one job oracle: a JSON list of calls a line in, one of answers a line out.

argv: the oracle's settings as JSON. Calls, done at once: ["has_job", uid, node], ["uids"], ["blindness"], ["squeues"].
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
import sys
import time
from typing import Any

import msgspec

from hipercow_slurm.errors import Error
from hipercow_slurm.slurm.oracle import Attempt, JobOracle, Settings

attempts: list[Attempt] = []
oracle = JobOracle(msgspec.convert(json.loads(sys.argv[1]), Settings), observe=attempts.append)


async def answer(call: list[Any]) -> dict[str, Any]:
    began = time.monotonic()
    try:
        match call:
            case ["has_job", uid, node]:
                told: dict[str, Any] = dataclasses.asdict(await oracle.has_job(uid, node))
            case ["uids"]:
                told = {"uids": sorted(await oracle.uids_with_jobs(max_age_s=0))}
            case ["blindness"]:
                told = {"blindness": await oracle.blindness()}
            case _:
                told = {"squeues": len(attempts), "slowest": max((a.seconds for a in attempts), default=0)}
    except Error as error:
        told = {"code": error.code, "why": error.message}
    return told | {"seconds": time.monotonic() - began}


async def main() -> None:
    while line := await asyncio.to_thread(sys.stdin.readline):
        print(json.dumps(await asyncio.gather(*map(answer, json.loads(line)))), flush=True)


asyncio.run(main())
