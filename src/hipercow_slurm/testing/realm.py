"""A real MIT realm of one's own, for tests and the sandbox: a database, a KDC on a port, principals, keytabs.

Rule 1: everything lives under one folder; nothing in /etc or /var is read or written.
Rule 2: the environment is a value (``Realm.env``) given to children; only ``activated()`` changes this process's.
Rule 3: passwords reach kadmin through its standard input, never its arguments.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from hipercow_slurm.testing import realm_conf
from hipercow_slurm.testing.ports import free_port

START_TIMEOUT_S = 10.0
STOP_TIMEOUT_S = 5.0
TOOL_TIMEOUT_S = 60.0
READY = "commencing operation"

# What kadmin.local prints on standard error though all is well.
HARMLESS = ("No policy specified for", "No dictionary file specified")


class Realm:
    """One realm; ``start()`` makes the database at first and runs the KDC.

    Args:
        dir: folder for everything, made when missing (mode 0700 is the caller's choice).
        name: realm name.
        port: UDP and TCP port of the KDC; None takes a free one.
        host: IPv4 address or name the KDC listens on and krb5.conf points to.
        clockskew_s: tolerated clock difference, for clients, servers and the KDC.
        max_life, max_renew: upper bounds of tickets, in kadmin's notation ("10h", "7d", "60s").
        domains: host or domain names that belong to the realm, for [domain_realm].
        auth_to_local: rules in krb5.conf's notation, in order; none means the default rule.
        passwords_change: run kadmind too, so that users can change their passwords (kpasswd).
        others: further realms that krb5.conf should know, {name: "host:port"}.
        kdc_env: extra environment of the KDC process alone.
        kdc_conf_more: further sections of kdc.conf, as text.
    """

    def __init__(
        self,
        dir: Path,
        name: str = "REALM.TEST",
        *,
        port: int | None = None,
        host: str = "127.0.0.1",
        clockskew_s: int = 5,
        max_life: str = "10h",
        max_renew: str = "7d",
        domains: Sequence[str] = (),
        auth_to_local: Sequence[str] = (),
        others: Mapping[str, str] | None = None,
        kdc_env: Mapping[str, str] | None = None,
        passwords_change: bool = False,
        kdc_conf_more: str = "",
    ) -> None:
        self.dir = Path(dir).resolve()
        self.name = name
        self.host = host
        self.port = port if port is not None else free_port(host)
        self.clockskew_s = clockskew_s
        self.max_life = max_life
        self.max_renew = max_renew
        self.domains = tuple(domains)
        self.auth_to_local = tuple(auth_to_local)
        self.others = dict(others or {})
        self.kdc_env = dict(kdc_env or {})
        self.passwords_change = passwords_change
        self.kdc_conf_more = kdc_conf_more
        self.admin_port = free_port(host) if passwords_change else 0
        self.kpasswd_port = free_port(host) if passwords_change else 0
        self._kdc: subprocess.Popen[bytes] | None = None
        self._kadmind: subprocess.Popen[bytes] | None = None

    @property
    def krb5_conf(self) -> Path:
        """The client configuration of this realm."""
        return self.dir / "krb5.conf"

    @property
    def env(self) -> dict[str, str]:
        """What a child needs in its environment, beside its own, to live in this realm."""
        return {"KRB5_CONFIG": str(self.krb5_conf), "KRB5_KDC_PROFILE": str(self.dir / "kdc.conf")}

    @property
    def log(self) -> str:
        """What the KDC has logged so far; print it when a test fails."""
        path = self.dir / "kdc.log"
        return path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""

    @property
    def pid(self) -> int | None:
        """Process id of the KDC while it runs."""
        return self._kdc.pid if self._kdc is not None and self._kdc.poll() is None else None

    def start(self) -> Realm:
        """Write the configuration, make the database if there is none, start the KDC and wait until it answers.

        Raises:
            RuntimeError: a tool failed or the KDC did not come up in 10 s; holds what they said.
        """
        self.dir.mkdir(parents=True, exist_ok=True)
        self.write_config()
        if not (self.dir / "principal").exists():
            # The master password only protects a database that lies beside its own stash file.
            self._tool("kdb5_util", "create", "-s", "-r", self.name, input="master\nmaster\n")
        self._start_kdc()
        if self.passwords_change:
            self._start_kadmind()
        return self

    def stop(self) -> None:
        """End the KDC; the folder stays."""
        kadmind, self._kadmind = self._kadmind, None
        if kadmind is not None:
            kadmind.terminate()
            kadmind.wait(STOP_TIMEOUT_S)
        kdc, self._kdc = self._kdc, None
        if kdc is None:
            return
        atexit.unregister(self.stop)
        with contextlib.suppress(ProcessLookupError):
            kdc.send_signal(signal.SIGCONT)  # a paused process would not see TERM
            kdc.terminate()
        try:
            kdc.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            kdc.kill()
            kdc.wait()

    def restart(self) -> None:
        """Stop and start the KDC, on the same port."""
        self.stop()
        self._start_kdc()
        if self.passwords_change:
            self._start_kadmind()

    def pause(self) -> None:
        """Make the KDC hang: its port stays open and nothing answers."""
        os.waitid(os.P_PID, self._signal(signal.SIGSTOP), os.WSTOPPED)

    def resume(self) -> None:
        """Undo ``pause()``."""
        self._signal(signal.SIGCONT)

    def destroy(self) -> None:
        """Stop the KDC and remove the folder."""
        self.stop()
        shutil.rmtree(self.dir, ignore_errors=True)

    def __enter__(self) -> Realm:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    @contextlib.contextmanager
    def activated(self) -> Iterator[Realm]:
        """This process itself lives in the realm, for the length of the block."""
        before = {key: os.environ.get(key) for key in self.env}
        os.environ.update(self.env)
        try:
            yield self
        finally:
            for key, value in before.items():
                if value is None:
                    os.environ.pop(key, None)
                else:
                    os.environ[key] = value

    def add_user(self, name: str, password: str, **attributes: str | bool) -> str:
        """Add a principal with a password; returns its full text.

        Args:
            attributes: kadmin's own, ``maxlife="1h"``, ``pwexpire="yesterday"``; a flag is a bool,
                ``needchange=True``, ``requires_preauth=False``.
        """
        self.kadmin(f"addprinc -pw {_quote(password)}{_options(attributes)} {_quote(name)}")
        return name if "@" in name else f"{name}@{self.name}"

    def add_service(self, name: str, **attributes: str | bool) -> str:
        """Add a principal with random keys; returns its full text."""
        self.kadmin(f"addprinc -randkey{_options(attributes)} {_quote(name)}")
        return name if "@" in name else f"{name}@{self.name}"

    def keytab(self, path: Path, *principals: str) -> Path:
        """Add the current keys of the principals to the keytab ``path`` (they are not changed)."""
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        self.kadmin(*(f"ktadd -norandkey -k {_quote(str(path))} {_quote(name)}" for name in principals))
        return Path(path)

    def kadmin(self, *queries: str) -> str:
        """Run kadmin.local queries in order, through its standard input; returns what it printed.

        Raises:
            RuntimeError: kadmin.local said anything on standard error beyond its usual warnings.
        """
        done = self._tool("kadmin.local", "-r", self.name, input="".join(f"{query}\n" for query in queries))
        complaints = [line for line in done.stderr.splitlines() if line and not line.startswith(HARMLESS)]
        if complaints:
            raise RuntimeError(f"kadmin.local: {' | '.join(complaints)}")
        return done.stdout

    def kinit(self, principal: str, password: str, ccache: str, *options: str) -> None:
        """Fill ``ccache`` with MIT's own kinit."""
        self._tool("kinit", *options, "-c", ccache, principal, input=password + "\n")

    def write_config(self) -> None:
        """Write krb5.conf and kdc.conf (also after attributes of this object were changed)."""
        self.krb5_conf.write_text(realm_conf.krb5_conf(self), encoding="utf-8")
        self.krb5_conf.chmod(0o644)
        (self.dir / "kdc.conf").write_text(realm_conf.kdc_conf(self), encoding="utf-8")

    def _start_kdc(self) -> None:
        if self.pid is not None:
            raise RuntimeError(f"the KDC of {self.name} runs already, pid {self.pid}")
        output, before = self.dir / "kdc.out", len(self.log)
        with output.open("ab") as out:
            self._kdc = subprocess.Popen(
                [_program("krb5kdc"), "-n", "-r", self.name, "-P", str(self.dir / "kdc.pid")],
                env={**os.environ, **self.env, **self.kdc_env},
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
            )
        atexit.register(self.stop)
        end = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < end and self._kdc.poll() is None:
            if READY in self.log[before:]:  # not a connection: whoever else holds the port would take it
                return
            time.sleep(0.005)
        self.stop()
        said = output.read_text(encoding="utf-8", errors="replace")
        raise RuntimeError(f"the KDC of {self.name} did not start on {self.host}:{self.port}: {said}{self.log}")

    def _start_kadmind(self) -> None:
        """Changing passwords is kadmind's second port; its log says when it listens."""
        log = self.dir / "kadmin.log"
        before = log.stat().st_size if log.exists() else 0
        (self.dir / "kadm5.acl").touch()
        with (self.dir / "kadmind.out").open("ab") as out:
            self._kadmind = subprocess.Popen(
                [_program("kadmind"), "-nofork", "-r", self.name, "-P", str(self.dir / "kadmind.pid")],
                env={**os.environ, **self.env},
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
            )
        end = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < end and self._kadmind.poll() is None:
            if log.exists() and b"starting" in log.read_bytes()[before:]:
                return
            time.sleep(0.01)
        self.stop()
        said = (self.dir / "kadmind.out").read_text(errors="replace")
        raise RuntimeError(f"kadmind of {self.name} did not start: {said}")

    def _signal(self, number: signal.Signals) -> int:
        """Send a signal to the KDC; its pid."""
        if (pid := self.pid) is None:
            raise RuntimeError(f"the KDC of {self.name} does not run")
        os.kill(pid, number)
        return pid

    def _tool(self, program: str, *arguments: str, input: str) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [_program(program), *arguments],
            input=input,
            env={**os.environ, **self.env, "LC_ALL": "C"},
            text=True,
            capture_output=True,
            timeout=TOOL_TIMEOUT_S,
        )
        if done.returncode:
            raise RuntimeError(f"{program} ended with {done.returncode}: {done.stderr.strip()}")
        return done


def _program(name: str) -> str:
    """Full path; Debian keeps the KDC's programs in /usr/sbin, which is not on every PATH."""
    found = shutil.which(name, path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin:/usr/bin")
    if found is None:
        raise RuntimeError(f"{name} is not installed")
    return found


def _quote(text: str) -> str:
    """One word for kadmin's command parser, which doubles a quote inside quotes."""
    if "\n" in text:
        raise ValueError("kadmin reads one line a query")
    return '"' + text.replace('"', '""') + '"'


def _options(attributes: Mapping[str, str | bool]) -> str:
    """kadmin options: a bool is a flag (+name or -name), a text is ``-name "text"``."""
    words = ""
    for name, value in attributes.items():
        words += f" {'+' if value else '-'}{name}" if isinstance(value, bool) else f" -{name} {_quote(value)}"
    return words
