"""Runs inside the sandbox and makes requests: ``hipercow-python -m hipercow_slurm.testing.bench.submit_load``.

Standard input: a line of JSON, the fields of ``Ask``. Standard output: "ready", when all clients are connected; then,
after another line has come, a line of JSON, the fields of ``Done``. HTTP ways run on the head as the API's user, who
may talk to slurmrestd; ``sbatch`` on the login node as alice. What is needed beforehand (a session, a Slurm token) is
made here; the requests that count are made by ``http_load``, alike for both ways.
"""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import resource
import ssl
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field

from hipercow_slurm.krb5 import creds
from hipercow_slurm.signer.client import SignerClient, Token
from hipercow_slurm.slurm.model import JobSpec
from hipercow_slurm.slurm.rest import SlurmRest
from hipercow_slurm.slurm.v0038 import V0038
from hipercow_slurm.testing.sandbox.layout import API_PORT, API_URL, CONFIG, HEAD, REST_SOCKET, SIGNER_SOCKET, fqdn

SCRIPT = "#!/bin/sh\ntrue\n"
SLURM_CONF = "/tmp/bench-slurm.conf"  # in the sandbox: the cluster's, without our plugin
HTTP_LOAD = "/tmp/bench-http-load"  # in the sandbox: http_load.c, compiled
TRUST = f"{CONFIG}/ca.pem"
PROXY_PORT = 9443  # of nginx before slurmrestd: submit_proxy.py
PROXY_URL = f"https://{fqdn(HEAD)}:{PROXY_PORT}"
BULK = 20  # jobs in one call

_API = V0038()  # this machine's Slurm is 22.05
_JSON = {"Content-Type": "application/json"}


@dataclass(frozen=True, slots=True)
class Ask:
    """What to do ``count`` times, by ``clients``.

    Attributes:
        way: api, api-new (a connection for each request), api-bulk (``BULK`` jobs in each), rest, proxy (slurmrestd
            behind nginx), sbatch, login, status, rest-status; or session.
        token: an API session's, made beforehand (``way`` session): a login lists the user's jobs in the background.
    """

    way: str
    clients: int
    count: int
    user: str
    password: str = field(repr=False)
    token: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True)
class Done:
    """What came of it; ``why`` is the first error's sentence, ``each`` how many jobs a request made."""

    done: int
    errors: int
    seconds: float
    p50_ms: float
    p95_ms: float
    max_ms: float
    client_cpu_s: float
    why: str = ""
    each: int = 1


@dataclass(frozen=True, slots=True)
class Repeated:
    """A request that is made again and again.

    Attributes:
        status, word: what every answer must have; the word once for each of ``jobs``.
        keyed: with an Idempotency-Key of its own each time, as our own client sends one.
        fresh: on a connection of its own each time.
        socket: of slurmrestd; empty: TCP, as the URL says.
    """

    method: str
    url: str
    headers: Mapping[str, str] = field(repr=False)
    body: bytes = field(repr=False)
    status: int
    word: str
    keyed: bool = False
    fresh: bool = False
    socket: str = ""
    jobs: int = 1


class RefusedError(Exception):
    """A request was refused."""


def session(ask: Ask) -> str:
    """A new session's token."""
    return str(json.loads(_once("/v1/sessions", {}, _login_body(ask)))["token"])


async def run(ask: Ask) -> Done:
    """Do what was asked."""
    if ask.way == "sbatch":
        return await _sbatches(ask)
    return await _loaded(ask, await _repeated(ask))


def _at_the_word() -> None:
    """Whoever started us notes what the services have used so far, and says when to begin."""
    print("ready", flush=True)
    sys.stdin.readline()


async def _repeated(ask: Ask) -> Repeated:
    """The request of the kind asked for."""
    if ask.way == "login":
        return Repeated("POST", f"{API_URL}/v1/sessions", _JSON, _login_body(ask), 201, '"token"')
    if ask.way in ("rest", "proxy", "rest-status"):
        return await _of_slurmrestd(ask)
    headers = {"Authorization": f"Bearer {ask.token}"}
    one = {"script": SCRIPT, "hold": True, "working_directory": "/tmp"}
    body = json.dumps(one).encode()
    if ask.way == "api-bulk":
        url, many = f"{API_URL}/v1/jobs:bulk", json.dumps({"jobs": [one] * BULK}).encode()
        return Repeated("POST", url, {**_JSON, **headers}, many, 200, '"status":201', keyed=True, jobs=BULK)
    if ask.way in ("api", "api-new"):
        url, fresh = f"{API_URL}/v1/jobs", ask.way == "api-new"
        return Repeated("POST", url, {**_JSON, **headers}, body, 201, '"job_id"', keyed=True, fresh=fresh)
    if ask.way != "status":
        raise ValueError(ask.way)
    job = json.loads(_once("/v1/jobs", headers, body))
    return Repeated("GET", f"{API_URL}/v1/jobs/{job['job_id']}", headers, b"", 200, '"job_id"')


async def _of_slurmrestd(ask: Ask) -> Repeated:
    """The same asked of slurmrestd, as the API asks it."""
    signed = await _signed(ask)
    headers = {"X-SLURM-USER-NAME": signed.localname, "X-SLURM-USER-TOKEN": signed.token}
    spec = JobSpec(script=SCRIPT, hold=True, working_directory="/tmp", environment={"PATH": "/bin:/usr/bin"})
    if ask.way in ("rest", "proxy"):
        direct = ask.way == "rest"
        body, server = _API.submit_body(spec, ask.user), "http://slurmrestd" if direct else PROXY_URL
        socket, url = REST_SOCKET if direct else "", f"{server}{_API.submit_path()}"
        return Repeated("POST", url, {**_JSON, **headers}, body, 200, '"job_id"', socket=socket)
    async with SlurmRest(REST_SOCKET, version=_API.version) as slurm:
        job = await slurm.submit(signed, spec)
    url = f"http://slurmrestd{_API.job_path(job.job_id)}"
    return Repeated("GET", url, headers, b"", 200, '"job_id"', socket=REST_SOCKET)


async def _signed(ask: Ask) -> Token:
    """A Slurm token, from the signer as the API gets it; it lasts a minute."""
    password = bytearray(ask.password.encode())
    keytab, service = f"{CONFIG}/api.keytab", f"HTTP/{fqdn(HEAD)}"
    tgt = await asyncio.to_thread(creds.password_tgt, ask.user, password, keytab=keytab, service=service)
    return await SignerClient(SIGNER_SOCKET, f"slurm-signer/{fqdn(HEAD)}").token(tgt)


def _login_body(ask: Ask) -> bytes:
    return json.dumps({"username": ask.user, "password": ask.password}).encode()


def _once(path: str, headers: Mapping[str, str], body: bytes) -> bytes:
    """POST to the API, once.

    Raises:
        RefusedError: the answer is not 201.
    """
    trust = ssl.create_default_context(cafile=TRUST)
    connection = http.client.HTTPSConnection(fqdn(HEAD), API_PORT, timeout=60, context=trust)
    try:
        connection.request("POST", path, body, {**_JSON, **headers})
        answer = connection.getresponse()
        content = answer.read()
    finally:
        connection.close()
    if answer.status != 201:
        raise RefusedError(f"POST {path}: {answer.status} {content[:900].decode(errors='replace')}")
    return content


async def _loaded(ask: Ask, what: Repeated) -> Done:
    """What http_load found."""
    words = (ask.clients, ask.count, what.method, what.url, what.status, what.word, what.jobs)
    flags = (int(what.keyed), int(what.fresh))
    process = await asyncio.create_subprocess_exec(
        HTTP_LOAD,
        *map(str, (*words, *flags, len(what.body))),
        *([what.socket] if what.socket else []),
        env={**os.environ, "SSL_CERT_FILE": TRUST},
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    head = "".join(f"{name}: {value}\n" for name, value in what.headers.items())
    assert process.stdin is not None and process.stdout is not None
    process.stdin.write(f"{head}\n".encode() + what.body)
    if await process.stdout.readline():
        _at_the_word()
    found, said = await process.communicate(b"\n")
    if process.returncode:
        raise RefusedError(said.decode(errors="replace")[:300])
    return Done(**json.loads(found), each=what.jobs)


async def _sbatch() -> None:
    """One sbatch process, as a shell loop makes them."""
    process = await asyncio.create_subprocess_exec(
        *("sbatch", "--hold", "--chdir=/tmp", "--wrap=true"),
        env={"PATH": "/usr/bin:/bin", "SLURM_CONF": SLURM_CONF},
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
    )
    _, said = await process.communicate()
    if process.returncode:
        raise RefusedError(said.decode(errors="replace")[:300])


async def _sbatches(ask: Ask) -> Done:
    """``clients`` loops that share ``count`` calls."""
    await _sbatch()  # what is read from the disk the first time
    _at_the_word()
    latencies: list[float] = []
    failures: list[str] = []
    numbers = iter(range(ask.count))

    async def client() -> None:
        for _ in numbers:
            began = time.perf_counter()
            try:
                await _sbatch()
            except (RefusedError, OSError) as error:
                failures.append(f"{type(error).__name__}: {error}")
            latencies.append(time.perf_counter() - began)

    cpu, begin = _cpu_s(), time.perf_counter()
    await asyncio.gather(*(client() for _ in range(ask.clients)))
    seconds = time.perf_counter() - begin
    latencies.sort()
    half, most, worst = (latencies[int(share * (len(latencies) - 1))] * 1e3 for share in (0.5, 0.95, 1.0))
    good = len(latencies) - len(failures)
    why = failures[0] if failures else ""
    return Done(good, len(failures), seconds, half, most, worst, _cpu_s() - cpu, why)


def _cpu_s() -> float:
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


def main() -> None:
    """Read what is asked, do it, say what came of it."""
    resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
    ask = Ask(**json.loads(sys.stdin.readline()))
    if ask.way == "session":
        print(json.dumps(session(ask)))
    else:
        print(json.dumps(asdict(asyncio.run(run(ask)))))


if __name__ == "__main__":
    main()
