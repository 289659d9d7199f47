"""Runs inside the sandbox and makes requests: ``hipercow-python -m hipercow_slurm.testing.bench.submit_load``.

Standard input: one JSON object, the fields of ``Ask``. Standard output: one JSON object, those of ``Done``.
HTTP ways run on the head as the API's user, who may talk to slurmrestd; ``sbatch`` on the login node as alice.
"""

from __future__ import annotations

import asyncio
import json
import resource
import ssl
import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass
from secrets import token_hex

import aiohttp

from hipercow_slurm.krb5 import creds
from hipercow_slurm.signer.client import SignerClient
from hipercow_slurm.slurm.model import JobSpec
from hipercow_slurm.slurm.v0038 import V0038
from hipercow_slurm.testing.sandbox.layout import API_URL, CONFIG, HEAD, REST_SOCKET, SIGNER_SOCKET, fqdn

SCRIPT = "#!/bin/sh\ntrue\n"
SLURM_CONF = "/tmp/bench-slurm.conf"  # in the sandbox: the cluster's, without our plugin

_API = V0038()  # this machine's Slurm is 22.05

Once = Callable[[], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Ask:
    """What to do: ``way`` is api, rest, sbatch, login, status or rest-status; ``count`` times, by ``clients``.

    ``token`` is an API session's, made beforehand (``way`` session): a login lists the user's jobs in the background.
    """

    way: str
    clients: int
    count: int
    user: str
    password: str
    token: str = ""


@dataclass(frozen=True, slots=True)
class Done:
    """What came of it; ``why`` is the first error's sentence."""

    done: int
    errors: int
    seconds: float
    p50_ms: float
    p95_ms: float
    max_ms: float
    client_cpu_s: float
    why: str = ""


class RefusedError(Exception):
    """A request was refused."""


async def session(ask: Ask) -> str:
    """A new session's token."""
    connector = aiohttp.TCPConnector(ssl=ssl.create_default_context(cafile=f"{CONFIG}/ca.pem"))
    async with aiohttp.ClientSession(connector=connector) as http:
        answer = await _ask(http, "POST", f"{API_URL}/v1/sessions", {}, _login_body(ask), 201)
        return str(json.loads(answer)["token"])


async def run(ask: Ask) -> Done:
    """Do what was asked."""
    if ask.way == "sbatch":
        return await _measure(ask, _sbatch)
    rest = ask.way.startswith("rest")
    trust = None if rest else ssl.create_default_context(cafile=f"{CONFIG}/ca.pem")
    connector = (
        aiohttp.UnixConnector(REST_SOCKET, limit=0) if rest else aiohttp.TCPConnector(limit=0, ssl=trust or True)
    )
    async with aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(120)) as http:
        return await _measure(ask, await _once(ask, http))


async def _once(ask: Ask, http: aiohttp.ClientSession) -> Once:
    """One request of the kind asked for, as a function."""
    if ask.way == "login":
        return lambda: _post(http, f"{API_URL}/v1/sessions", {}, _login_body(ask), 201)
    if ask.way.startswith("rest"):
        headers = await _slurm_headers(ask)
        spec = JobSpec(script=SCRIPT, hold=True, working_directory="/tmp", environment={"PATH": "/bin:/usr/bin"})
        body, path = _API.submit_body(spec, ask.user), _API.submit_path()
        if ask.way == "rest":
            return lambda: _post(http, f"http://slurmrestd{path}", headers, body, 200)
        answer = json.loads(await _ask(http, "POST", f"http://slurmrestd{path}", headers, body, 200))
        url = f"http://slurmrestd{_API.job_path(answer['job_id'])}"
        return lambda: _get(http, url, headers)
    headers = {"Authorization": f"Bearer {ask.token}"}
    body = json.dumps({"script": SCRIPT, "hold": True, "working_directory": "/tmp"}).encode()
    if ask.way == "api":  # with a key, as our own client sends one
        return lambda: _post(http, f"{API_URL}/v1/jobs", {**headers, "Idempotency-Key": token_hex(16)}, body, 201)
    job = json.loads(await _ask(http, "POST", f"{API_URL}/v1/jobs", headers, body, 201))
    return lambda: _get(http, f"{API_URL}/v1/jobs/{job['job_id']}", headers)


def _login_body(ask: Ask) -> bytes:
    return json.dumps({"username": ask.user, "password": ask.password}).encode()


async def _slurm_headers(ask: Ask) -> dict[str, str]:
    """A Slurm token, from the signer as the API gets it; it lasts a minute."""
    password = bytearray(ask.password.encode())
    keytab, service = f"{CONFIG}/api.keytab", f"HTTP/{fqdn(HEAD)}"
    tgt = await asyncio.to_thread(creds.password_tgt, ask.user, password, keytab=keytab, service=service)
    signed = await SignerClient(SIGNER_SOCKET, f"slurm-signer/{fqdn(HEAD)}").token(tgt)
    return {"X-SLURM-USER-NAME": signed.localname, "X-SLURM-USER-TOKEN": signed.token}


async def _post(http: aiohttp.ClientSession, url: str, headers: dict[str, str], body: bytes, good: int) -> None:
    await _ask(http, "POST", url, headers, body, good)


async def _get(http: aiohttp.ClientSession, url: str, headers: dict[str, str]) -> None:
    await _ask(http, "GET", url, headers, None, 200)


async def _ask(
    http: aiohttp.ClientSession, method: str, url: str, headers: dict[str, str], body: bytes | None, good: int
) -> bytes:
    typed = {"Content-Type": "application/json", **headers} if body is not None else headers
    async with http.request(method, url, headers=typed, data=body) as answer:
        content = await answer.read()
        if answer.status != good:
            raise RefusedError(
                f"{method} {url}: {answer.status} {' '.join(content.decode(errors='replace').split())[:900]}"
            )
        return content


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


async def _measure(ask: Ask, once: Once) -> Done:
    """``clients`` loops that share ``count`` calls."""
    await once()  # connections, caches
    latencies: list[float] = []
    failures: list[str] = []
    numbers = iter(range(ask.count))

    async def client() -> None:
        for _ in numbers:
            began = time.perf_counter()
            try:
                await once()
            except (RefusedError, aiohttp.ClientError, TimeoutError, OSError) as error:
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
    ask = Ask(**json.load(sys.stdin))
    if ask.way == "session":
        print(json.dumps(asyncio.run(session(ask))))
    else:
        print(json.dumps(asdict(asyncio.run(run(ask)))))


if __name__ == "__main__":
    main()
