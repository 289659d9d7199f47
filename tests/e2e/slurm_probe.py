"""Runs on the sandbox's head as the API's user: does what it is told with the signer's and slurmrestd's clients.

Standard input: {"passwords": {user: password}, "timeout_s": seconds, "together": whether all at once,
"version": of slurmrestd's API, or null to ask for it,
"calls": [[who, method, *arguments], ...]}.
``who`` is a user (a token from the real signer), ``forged:USER`` (a token of a key nobody knows) or ``A as B`` (A's
token beside B's name). Standard output: one JSON result a call: {"value": ...} or {"error": {code, status, message}}.
"""

from __future__ import annotations

import asyncio
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import msgspec

from hipercow_slurm.errors import Error
from hipercow_slurm.krb5 import creds
from hipercow_slurm.signer import keys
from hipercow_slurm.signer.client import SignerClient
from hipercow_slurm.signer.policy import Grant
from hipercow_slurm.signer.service import token
from hipercow_slurm.slurm.model import JobSpec
from hipercow_slurm.slurm.rest import Identity, SlurmRest

HEAD = "head.sandbox.test"
SIGNER, REST = "/run/hipercow-slurm/signer/signer.sock", "/run/slurmrestd/rest.sock"


class Probe:
    def __init__(self, asked: dict[str, Any], slurm: SlurmRest) -> None:
        self.passwords, self.slurm = asked["passwords"], slurm
        self.signer = SignerClient(SIGNER, f"slurm-signer/{HEAD}")
        self.creds: dict[str, Any] = {}

    async def identity(self, who: str) -> Identity:
        if who.startswith("forged:"):
            return forged(who.removeprefix("forged:"))
        user, _, name = who.partition(" as ")
        if user not in self.creds:
            self.creds[user] = creds.password_tgt(
                user,
                bytearray(self.passwords[user].encode()),
                keytab="/etc/hipercow-slurm/api.keytab",
                service=f"HTTP/{HEAD}",
            )
        signed = await self.signer.token(self.creds[user])
        return Identity(name or signed.localname, signed.token)

    async def call(self, who: str, method: str, *arguments: Any) -> dict[str, Any]:
        begin = time.monotonic()
        try:
            if method == "wait":
                value = await self.wait(who, *arguments)
            elif method == "token":
                value = {"token": (await self.identity(who)).token}
            elif method == "submit":
                value = await self.slurm.submit(await self.identity(who), msgspec.convert(arguments[0], JobSpec))
            else:
                value = await getattr(self.slurm, method)(await self.identity(who), *arguments)
        except Error as error:
            told = {"code": error.code, "status": error.status, "message": error.message}
            return {"error": told, "seconds": time.monotonic() - begin}
        return {"value": msgspec.to_builtins(value), "seconds": time.monotonic() - begin}

    async def wait(self, who: str, job_id: int, states: list[str]) -> Any:
        """The job, once it is in one of ``states``, or as it is after 20 s."""
        end = time.monotonic() + 20
        while True:
            job = await self.slurm.job(await self.identity(who), job_id)
            if job.state in states or time.monotonic() > end:
                return job
            await asyncio.sleep(0.1)


def forged(user: str) -> Identity:
    """All is right about this token but the key."""
    with tempfile.TemporaryDirectory() as folder:
        key = keys.generate(Path(folder, "key.pem"), Path(folder, "jwks.json"))
    now = int(time.time())
    return Identity(user, token(Grant(user, 5001, now, now + 60), key))


async def main() -> None:
    asked = json.load(sys.stdin)
    async with SlurmRest(REST, version=asked["version"], timeout_s=asked["timeout_s"]) as slurm:
        probe = Probe(asked, slurm)
        if asked["together"]:
            answers = await asyncio.gather(*(probe.call(*call) for call in asked["calls"]))
        else:
            answers = [await probe.call(*call) for call in asked["calls"]]
        print(json.dumps(answers))


asyncio.run(main())
