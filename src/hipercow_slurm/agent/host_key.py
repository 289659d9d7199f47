"""The host's own ticket from its keytab, in a process of its own: a few times a day.

libkrb5 loads its preauthentication plugins for it, and with them OpenSSL, which would stay in the agent (3.5 MB of
35); and a KDC that swallows packets blocks it for half a minute, where a process can be killed.

    python -m hipercow_slurm.agent.host_key PRINCIPAL KEYTAB

writes the KRB-CRED to standard output and ends with 0, or writes one of our errors as JSON and ends with 1.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys

from hipercow_slurm import errors
from hipercow_slurm.errors import Error, InternalError
from hipercow_slurm.krb5 import creds, krbcred
from hipercow_slurm.values import KrbCred


async def fetch(principal: str, keytab: str) -> KrbCred:
    """See ``creds.keytab_tgt``; cancelling it kills the process.

    Raises:
        Error: as ``creds.keytab_tgt``.
        InternalError: the process ended in no way that it should.
    """
    command = [sys.executable, "-P", "-m", __name__, principal, keytab]
    process = await asyncio.create_subprocess_exec(
        *command,
        env={
            name: value for name, value in os.environ.items() if name in ("PATH", "KRB5_CONFIG", "KRB5_TRACE", "LANG")
        },
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        said, _ = await process.communicate()
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
    if process.returncode == 0:
        return krbcred.parse(said)
    try:
        found = json.loads(said)
        family: type[Error] = getattr(errors, found["family"])
        raise family(found["message"], code=found["code"], hint=found["hint"])
    except (ValueError, KeyError, AttributeError) as error:
        raise InternalError(f"no ticket for {principal}: its process ended with {process.returncode}") from error


def main() -> int:
    """The process."""
    try:
        sys.stdout.buffer.write(creds.keytab_tgt(*sys.argv[1:]).der)
    except Error as error:
        family = type(error).__name__
        print(json.dumps({"family": family, "message": error.message, "code": error.code, "hint": error.hint}))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
