"""Two API hosts on one PostgreSQL, beside a sandbox's Slurm, as a site has them behind one name.

They share certificate, principal and the signing key; each has its own address, configuration, signer and slurmrestd.
The first is the sandbox's head, the second its login node, and the database is on the file server. All of it runs in
the sandbox and ends with it.
"""

from __future__ import annotations

import json
import os
import secrets
import signal
import subprocess
from typing import Any

from hipercow_slurm.testing.postgres import ACCOUNT, programs
from hipercow_slurm.testing.sandbox import Sandbox, layout, slurm
from hipercow_slurm.testing.sandbox.layout import API, CONFIG, SIGNER, SLURMREST
from hipercow_slurm.testing.story import eventually

HOSTS = FIRST, SECOND = "head", "login"
ADDRESSES = {FIRST: "127.0.0.1", SECOND: "127.0.0.2"}
PROCESSES = 2  # of each host's API; the sandbox's api.toml says so
STATE = "/var/lib/hipercow-slurm"
OURS = (layout.PYTHON, "-m", "hipercow_slurm")

# Requests from the laptop to the address that is asked for, a line per answer, as they come. The first line says how
# many at a time; a request that got no answer has status 0.
ASK = """
import concurrent.futures, httpx, json, ssl, sys
tls = ssl.create_default_context(cafile="/etc/hipercow-slurm/ca.pem")
name = "head.sandbox.test"
def one(asked):
    headers = {"Host": name + ":8443", **asked.pop("headers")}
    try:
        with httpx.Client(verify=tls, timeout=60, trust_env=False) as client:
            answer = client.request(headers=headers, extensions={"sni_hostname": name}, **asked)
        return [answer.status_code, answer.json() if answer.content else None]
    except httpx.HTTPError as error:
        return [0, repr(error)]
at_once, asked = json.load(sys.stdin)
with concurrent.futures.ThreadPoolExecutor(at_once) as threads:
    for answer in threads.map(one, asked):
        print(json.dumps(answer), flush=True)
"""
# Passwords are asked for, also of the superuser.
POSTGRES = """
cd /tmp && read password && echo "$password" > pw && {initdb} -D data -A scram-sha-256 --pwfile=pw -E UTF8 --no-locale
rm pw; echo "host all all samenet scram-sha-256" >> data/pg_hba.conf
exec {postgres} -D data -c listen_addresses={address} -c unix_socket_directories=/tmp
"""

Answer = tuple[int, Any]


def request(host: str, method: str, path: str, token: str = "", **more: Any) -> dict[str, Any]:
    """What ``Hosts.ask_all`` asks."""
    headers = {**more.pop("headers", {}), **({"Authorization": f"Bearer {token}"} if token else {})}
    return {"method": method, "url": f"https://{ADDRESSES[host]}:{layout.API_PORT}{path}", "headers": headers, **more}


class Hosts:
    """Both hosts; ``with Hosts(sandbox)``. The sandbox must have no API of its own.

    Args:
        api: more keys of ``[api]``, numbers only.
    """

    def __init__(self, sandbox: Sandbox, **api: int) -> None:
        self.sandbox = sandbox
        self._api = api
        self._password = secrets.token_hex(8)
        self._running: dict[str, subprocess.Popen[Any]] = {}

    def __enter__(self) -> Hosts:
        self._start_postgres()
        self._furnish_second()
        jwt = (*slurm.rest_arguments(self.sandbox.options), "-a", "rest_auth/jwt", f"unix:{layout.REST_SOCKET}")
        conf = {"SLURM_CONF": slurm.REST_CONF}
        self._start("slurmrestd", SECOND, SLURMREST.name, ("/usr/sbin/slurmrestd", *jwt), env=conf)
        self._start("signer", SECOND, SIGNER.name, (*OURS, "signer", "--config", f"{CONFIG}/signer.toml"))
        self._wait_for_socket(layout.SIGNER_SOCKET)
        self._wait_for_socket(layout.REST_SOCKET)
        for host in HOSTS:
            self._configure(host)
            self.start(host)
        return self

    def __exit__(self, *_: object) -> None:
        for name in list(self._running):
            self._end(name, signal.SIGQUIT if name == "postgres" else signal.SIGKILL)

    def ask(self, host: str, method: str, path: str, token: str = "", **more: Any) -> Answer:
        """One request to one host."""
        return self.ask_all([request(host, method, path, token, **more)])[0]

    def ask_all(self, requests: list[dict[str, Any]], at_once: int = 1) -> list[Answer]:
        """Several, in order: status and JSON of each."""
        process = self.asking(requests, at_once)
        assert process.stdout is not None
        answers: list[Answer] = [(status, said) for status, said in map(json.loads, process.stdout)]
        assert process.wait() == 0 and len(answers) == len(requests), answers
        return answers

    def asking(self, requests: list[dict[str, Any]], at_once: int) -> subprocess.Popen[str]:
        """The process that asks them: a line of JSON on its standard output per answer."""
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        process = self.sandbox.popen("laptop", ["hipercow-python", "-c", ASK], user="laptop", **pipes)
        assert process.stdin is not None
        with process.stdin as typed:
            typed.write(json.dumps([at_once, requests]))
        return process

    def login(self, host: str, user: str) -> dict[str, Any]:
        """A new session, as the API answers it."""
        body = {"username": user, "password": self.sandbox.passwords[user]}
        status, made = self.ask(host, "POST", "/v1/sessions", json=body)
        assert status == 201, (made, self.log(host)[-2000:])
        return dict(made)

    def start(self, host: str) -> None:
        """Start the API of a host and wait until it listens."""
        before = self.log(host).count("event=api.listens")
        self._start(f"api@{host}", host, API.name, (*OURS, "api", "--config", f"{CONFIG}/api.toml"))
        self._wait(f"the API of {host}", lambda: self.log(host).count("event=api.listens") >= before + PROCESSES)

    def kill(self, host: str) -> None:
        """kill -9 of all API processes of a host at once."""
        self._end(f"api@{host}", signal.SIGKILL)

    def log(self, host: str) -> str:
        """What the API of a host has printed, over all its starts."""
        path = self.sandbox.path / "log" / f"api@{host}.log"
        return path.read_text(errors="replace") if path.exists() else ""

    def sql(self, statement: str) -> str:
        """What psql prints for a statement."""
        command = [str(programs() / "psql"), "-X", "-At", "-v", "ON_ERROR_STOP=1", "-d", self._url, "-c", statement]
        return self.sandbox.run("files", command, user=ACCOUNT).stdout.strip()

    @property
    def _url(self) -> str:
        return f"postgresql://{ACCOUNT}:{self._password}@{layout.fqdn(layout.FILES)}/{ACCOUNT}"

    def _start_postgres(self) -> None:
        script = POSTGRES.format(
            initdb=programs() / "initdb", postgres=programs() / "postgres", address=layout.FILES_ADDRESS
        )
        process = self._start("postgres", "files", ACCOUNT, ("sh", "-ec", script), stdin=subprocess.PIPE)
        with process.stdin as typed:
            typed.write(f"{self._password}\n".encode())
        asked = [str(programs() / "pg_isready"), "-q", "-h", layout.FILES_ADDRESS]
        self._wait("postgres", lambda: not self.sandbox.run("files", asked, user=ACCOUNT, check=False).returncode)

    def _furnish_second(self) -> None:
        """What an operator copies to a second host, and its own signer's key."""
        queries = ("addprinc -randkey {0}", "ktadd -k /root/second.keytab {0}")
        for query in queries:
            own = query.format(layout.service_principal("slurm-signer", SECOND))
            self.sandbox.run(FIRST, ["kadmin.local", "-r", layout.REALM, "-q", own])
        folders = [("/run/slurmrestd", SLURMREST.name, "750"), ("/run/hipercow-slurm/signer", SIGNER.name, "750")]
        folders += [(f"{STATE}/api", API.name, "700"), (f"{STATE}/signer", SIGNER.name, "700")]
        for path, owner, mode in folders:
            options = ["-o", owner, "-g", API.name, "-m", mode]
            self.sandbox.run(SECOND, ["install", "-d", *options, path])
        self._copy("/root/second.keytab", f"{CONFIG}/signer.keytab", SIGNER.name)
        for key in ("key.pem", "key.next.pem"):
            self._copy(f"{STATE}/signer/{key}", f"{STATE}/signer/{key}", SIGNER.name)
        for name in ("api.key", "api.keytab", "api.crt"):
            self._copy(f"{CONFIG}/{name}", f"{CONFIG}/{name}", API.name)
        self._copy(slurm.REST_CONF, slurm.REST_CONF, SLURMREST.name)
        self._write(SECOND, f"{CONFIG}/signer.toml", self._second(self.sandbox.read(FIRST, f"{CONFIG}/signer.toml")))
        self._write(SECOND, f"{CONFIG}/api.toml", self._second(self.sandbox.read(FIRST, f"{CONFIG}/api.toml")))

    @staticmethod
    def _second(text: str) -> str:
        signer = layout.service_principal("slurm-signer", FIRST)
        return text.replace(signer, layout.service_principal("slurm-signer", SECOND))

    def _configure(self, host: str) -> None:
        text = self.sandbox.read(host, f"{CONFIG}/api.toml")
        more = "".join(f"{key} = {value}\n" for key, value in self._api.items())
        text = text.replace("[api]\n", f'[api]\ndatabase = "{self._url}"\n{more}', 1)
        text = text.replace("0.0.0.0", ADDRESSES[host])
        self._write(host, f"{CONFIG}/api.toml", text, API.name)

    def _copy(self, path: str, to: str, owner: str) -> None:
        packed = self.sandbox.run(FIRST, ["base64", path]).stdout
        script = f"umask 077; base64 -d > {to}; chown {owner} {to}"
        self.sandbox.run(SECOND, ["sh", "-ec", script], input=packed)

    def _write(self, host: str, path: str, text: str, owner: str = "root") -> None:
        mode = "600" if owner != "root" else "644"
        self.sandbox.run(host, ["sh", "-ec", f"cat > {path}; chown {owner} {path}; chmod {mode} {path}"], input=text)

    def _start(self, name: str, host: str, user: str, argv: tuple[str, ...], **more: Any) -> subprocess.Popen[Any]:
        log = name if "@" in name else f"{name}@{host}"
        with (self.sandbox.path / "log" / f"{log}.log").open("ab") as out:
            more = {"stdout": out, "stderr": out, "stdin": subprocess.DEVNULL, "start_new_session": True, **more}
            process = self.sandbox.popen(host, list(argv), user=user, **more)
        self._running[name] = process
        return process

    def _end(self, name: str, number: signal.Signals) -> None:
        process = self._running.pop(name)
        os.killpg(process.pid, number)
        process.wait(30)

    def _wait_for_socket(self, path: str) -> None:
        self._wait(path, lambda: not self.sandbox.run(SECOND, ["test", "-S", path], check=False).returncode)

    def _wait(self, what: str, probe: Any) -> None:
        def ready() -> bool:
            ended = {name: one.returncode for name, one in self._running.items() if one.poll() is not None}
            assert not ended, (ended, self.sandbox.tail_logs())
            return bool(probe())

        eventually(what, ready, within_s=60, every_s=0.1)
