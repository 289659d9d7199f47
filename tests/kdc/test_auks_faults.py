"""Every fault of AUKS' auksd that was measured, as a test of ours with the opposite outcome.

``FAULTS`` is the whole list with the test that shows each; those that no other file has are below.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import signal
import socket
import statistics
import struct
import subprocess
import sys
import time
from pathlib import Path

import pytest
from auksd_box import SERVICE, Auksd, uid_of
from test_auksd_abuse import Talk, closed_by_peer

from hipercow_slurm.client.auks import AuksClient, Limits, Server
from hipercow_slurm.krb5 import krbcred
from hipercow_slurm.krb5.ccache import file_v4
from hipercow_slurm.wire import messages as m
from hipercow_slurm.wire import records
from hipercow_slurm.wire.frames import frame
from hipercow_slurm.wire.sendauth import APPLICATION_VERSION, SENDAUTH_VERSION

ABUSE, DURABLE, CLIENT = "kdc/test_auksd_abuse", "kdc/test_auksd_durable", "kdc/test_auksd_client"
DAEMON, COMMAND, RENEWAL = "kdc/test_auksd", "kdc/test_auks_command", "kdc/test_auksd_renewal"
SITE, HERE = "kdc/test_auksd_from_auks", "kdc/test_auks_faults"

FAULTS = {
    "a 39-byte credential, more tickets than infos, or a key-only info crashes it": (
        ABUSE, "test_a_39_byte_credential_and_its_relatives_are_answered_with_error"),
    "a mutated credential crashes it": (ABUSE, "test_400_mutations_of_a_credential"),
    "ten idle connections stop all service": (ABUSE, "test_800_silent_connections_change_nothing"),
    "two thousand idle connections are kept without limit": (HERE, "test_two_thousand_idle_connections_are_not_kept"),
    "a connection may be silent for ever": (ABUSE, "test_silence_has_a_deadline_before_and_after_authentication"),
    "an idle connection turns HUP into an outage": (HERE, "test_hup_beside_an_idle_connection_is_no_outage"),
    "an idle connection keeps TERM from ending it": (DURABLE, "test_stop_does_not_wait_for_idle_peers"),
    "strangers make it take hundreds of megabytes": (HERE, "test_strangers_cannot_make_it_take_memory"),
    "a user without account is filed under the last line of passwd": (
        DAEMON, "test_a_principal_without_account_is_refused_and_files_nothing"),
    "replies disclose its memory": (ABUSE, "test_replies_leak_nothing"),
    "an ADD at a high log level overflows its stack": (HERE, "test_the_largest_credential_at_the_highest_log_level"),
    "kill -9 during a replace loses an acknowledged credential": (
        DURABLE, "test_20_kills_lose_no_acknowledged_credential"),
    "a worse credential is dropped in silence": (
        DAEMON, "test_the_later_renew_till_wins_and_a_worse_one_is_kept_out_quietly"),
    "without a replay cache a recorded session is executed": (ABUSE, "test_a_recorded_session_cannot_be_replayed"),
    "disk full: ERROR, but in memory, and lost at restart": (
        "unit/test_store", "test_a_full_disk_is_an_error_and_then_goes_on"),
    "out of descriptors it spins and floods its log": (
        HERE, "test_out_of_descriptors_it_neither_spins_nor_floods_its_log"),
    "idle connections use up its descriptors": (HERE, "test_idle_connections_cannot_use_up_few_descriptors"),
    "an empty configuration or ACL crashes it": (HERE, "test_an_empty_configuration_or_acl_is_said"),
    "a bad file at HUP ends it": (HERE, "test_hup_with_a_bad_file_changes_nothing"),
    "USR1 ends it": (HERE, "test_usr1_does_not_end_it"),
    "tickets that end after 2038 are deleted": ("unit/test_auksd_agenda", "test_late_times_are_unsigned"),
    "expired and addressful credentials are accepted": (DAEMON, "test_useless_credentials_are_refused"),
    "tickets of other clients ride along": ("unit/test_krbcred", "test_refused"),
    "host in the ACL never matches": (SITE, "test_host_rules_match_the_peer_address_and_name"),
    "an expression that does not compile is accepted": (SITE, "test_check_config_tells_and_changes_nothing"),
    "requests are not logged": (DAEMON, "test_no_secret_in_the_log"),
    "session keys lie on the disk in clear": ("unit/test_store", "test_files_are_private_and_hold_no_secret_in_clear"),
    "every connection stalls for 44 ms": (HERE, "test_no_connection_stalls_for_44_ms"),
    "receive crashes on a negative length": ("unit/test_auks_words", "test_negative_and_huge_lengths_are_refused"),
    "every client creates a log file in /tmp": (HERE, "test_a_client_creates_no_log_file"),
    "a stopped or saturated primary hangs the client": (CLIENT, "test_failover_in_order"),
    "a blackholed primary costs ten seconds": (HERE, "test_a_blackholed_primary_costs_one_short_deadline"),
    "what is added to the primary is not found at the secondary": (
        "kdc/test_auksd_shared", "test_an_add_is_seen_by_the_others_at_once_and_so_is_its_removal"),
    "CrossRealm does nothing": (COMMAND, "test_cross_realm_is_really_obtained"),
    "renewal loses the cross-realm ticket": ("kdc/test_krb5_crossrealm", "test_renewal_renews_the_cross_realm_ticket"),
    "auks -R loop ends with the first error": (COMMAND, "test_the_renewal_loop_survives_the_outage_of_kdc_and_cache"),
    "a renewal fails for good when the KDC is down": (RENEWAL, "test_an_outage_of_the_kdc_is_survived"),
    "cut and garbage frames before authentication": (HERE, "test_cut_frames_before_authentication"),
    "cut and garbage frames after authentication": (ABUSE, "test_random_bytes_before_and_after_the_handshake"),
    "wrong versions": (ABUSE, "test_strangers_are_closed_at_once"),
    "garbage AP-REQ": (ABUSE, "test_a_bad_ap_req_gets_a_krb_error"),
    "odd payloads": (ABUSE, "test_odd_payloads_are_answered_and_the_connection_goes_on"),
    "both servers down": (CLIENT, "test_all_servers_down_is_told_with_each_reason"),
}  # fmt: skip

GAMES = uid_of("games")
COMMAND_LINE = [sys.executable, "-m", "hipercow_slurm", "auksd"]
HELLO = frame(SENDAUTH_VERSION) + frame(APPLICATION_VERSION)


@pytest.mark.parametrize("fault", FAULTS)
def test_the_list_is_true(fault):
    file, test = FAULTS[fault]
    assert f"def {test}(" in (Path(__file__).parents[1] / f"{file}.py").read_text(), "the test has another name now"


@pytest.fixture(scope="module")
def auksd(folder, tgt):
    with Auksd(folder / "daemon", folder, extra="connections = 500\nhandshake_timeout_s = 5.0") as daemon:
        yield daemon
        assert daemon.process.poll() is None, daemon.log
        assert not daemon.lines("auksd.bug"), daemon.log


def start(box, *command):
    """Start the daemon of a box by a command of one's own."""
    with (box.folder / "auksd.log").open("ab") as log:
        box.process = subprocess.Popen(command, stdout=log, stderr=log)
    while not box.lines("auksd.listening"):
        assert box.process.poll() is None, box.log
        time.sleep(0.02)


def resident_mb(auksd):
    pages = int(Path(f"/proc/{auksd.process.pid}/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**20


def descriptors_of(auksd):
    return sum(1 for _ in Path(f"/proc/{auksd.process.pid}/fd").iterdir())


def cpu_s(auksd):
    fields = Path(f"/proc/{auksd.process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def connect(auksd):
    return socket.create_connection(("127.0.0.1", auksd.port), timeout=5)


@contextlib.contextmanager
def idle(auksd, count):
    """Connections that say nothing."""
    with contextlib.ExitStack() as stack:
        for _ in range(count):
            sock = stack.enter_context(socket.socket())
            sock.setblocking(False)
            sock.connect_ex(("127.0.0.1", auksd.port))
        yield


async def test_two_thousand_idle_connections_are_not_kept(auksd, tgt):
    with idle(auksd, 2000):
        await auksd.client().ping(auth=tgt["games"])
        descriptors = descriptors_of(auksd)
        assert descriptors < 600, f"{descriptors} descriptors for a limit of 500 connections"


def test_strangers_cannot_make_it_take_memory(auksd):
    """Three of 200 MiB each took the original to 630 MB."""
    before = resident_mb(auksd)
    for length in (0x7FFFFFFF, 200 * 2**20, 65536):
        for begin in (b"", HELLO):
            with connect(auksd) as sock, contextlib.suppress(OSError):
                sock.sendall(begin + struct.pack(">I", length))
                for _ in range(64):
                    sock.sendall(bytes(2**20))
    assert resident_mb(auksd) < before + 10


def test_cut_frames_before_authentication(auksd, tgt):
    for sent in (b"", b"\0\0", HELLO[:30], HELLO, HELLO + b"\0\0\2\0" + bytes(100)):
        with connect(auksd) as sock:
            sock.sendall(sent)
            sock.shutdown(socket.SHUT_WR)
            assert closed_by_peer(sock) in (b"", b"\0"), sent[:40]
    with Talk(auksd, tgt["games"]) as talk:
        assert talk.ask(m.Ping()) == m.PingReply()


def test_no_connection_stalls_for_44_ms(auksd, tgt):
    """Nagle on the server and a delayed ACK of the client: a stock client makes no use of quick ACKs."""
    took = []
    for _ in range(20):
        began = time.monotonic()
        with Talk(auksd, tgt["games"]) as talk:
            talk.ask(m.Ping())
        took.append(time.monotonic() - began)
    assert min(took) < 0.04, f"{statistics.median(took) * 1000:.0f} ms"


def test_the_largest_credential_at_the_highest_log_level(folder, tgt, tmp_path):
    """At LogLevel 4 the original overflows an 80 KiB stack at its first ADD."""
    box = Auksd(tmp_path / "verbose", folder)
    start(box, *COMMAND_LINE, "-F", *["-v"] * 5, *["-d"] * 5, "-f", str(box.config))
    try:
        with Talk(box, tgt["games"]) as talk:
            large = krbcred.build(krbcred.tickets(tgt["games"]) * 50)
            assert 30_000 < len(large.der) <= records.MAX_CRED, len(large.der)
            assert talk.ask(m.Add(large.der)) == m.AddReply()
            assert talk.ask(m.Add(bytes(records.MAX_CRED))) == m.ErrorReply(), "32 KiB of nothing"
            assert isinstance(talk.ask(m.Get(GAMES)), m.GetReply)
    finally:
        box.kill()


async def test_hup_beside_an_idle_connection_is_no_outage(auksd, tgt):
    """The original closes its listener and then waits for the idle peer; ours drops no connection either."""
    with connect(auksd) as silent, Talk(auksd, tgt["games"]) as talk:
        assert talk.ask(m.Ping()) == m.PingReply()
        auksd.process.send_signal(signal.SIGHUP)
        for _ in range(10):
            began = time.monotonic()
            await auksd.client().ping(auth=tgt["games"])
            assert time.monotonic() - began < 2
            await asyncio.sleep(0.05)
        assert talk.ask(m.Ping()) == m.PingReply(), "the connection from before goes on"
        silent.setblocking(False)
        with pytest.raises(BlockingIOError):
            silent.recv(1)


async def test_hup_with_a_bad_file_changes_nothing(auksd, tgt):
    """The original crashes on an empty file and exits on any other error."""
    acl = auksd.folder / "auksd.acl"
    good = {path: path.read_text() for path in (acl, auksd.config)}
    for path, bad in ((acl, ""), (acl, "rule {"), (auksd.config, ""), (auksd.config, "[auksd]\ncolour = 1\n")):
        path.write_text(bad)
        auksd.process.send_signal(signal.SIGHUP)
        await asyncio.sleep(0.3)
        await auksd.client().ping(auth=tgt["games"])
        path.write_text(good[path])
    auksd.process.send_signal(signal.SIGHUP)
    await asyncio.sleep(0.3)
    await auksd.client().ping(auth=tgt["games"])


async def test_usr1_does_not_end_it(auksd, tgt):
    auksd.process.send_signal(signal.SIGUSR1)
    await asyncio.sleep(0.2)
    await auksd.client().ping(auth=tgt["games"])


@pytest.mark.parametrize("text", ["", "# only a comment\n", "\n\n"])
def test_an_empty_configuration_or_acl_is_said(folder, tgt, tmp_path, text):
    (tmp_path / "auks.conf").write_text(text)
    box = Auksd(tmp_path / "box", folder)
    (box.folder / "auksd.acl").write_text(text)
    for path, said in ((tmp_path / "auks.conf", "no block 'common'"), (box.config, "no rule")):
        command = [sys.executable, "-m", "hipercow_slurm", "auksd", "-f", str(path)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=20)
        assert done.returncode == 78, done
        assert said in done.stdout + done.stderr, done


async def test_out_of_descriptors_it_neither_spins_nor_floods_its_log(folder, tgt, tmp_path):
    """The original: half a CPU and 8 MB of log per second, until the peers go away."""
    with Auksd(tmp_path / "tight", folder, extra="handshake_timeout_s = 1.0") as box:
        await box.client().ping(auth=tgt["games"])
        used = descriptors_of(box)
        resource.prlimit(box.process.pid, resource.RLIMIT_NOFILE, (used + 20, used + 20))
        before, size = cpu_s(box), len(box.log)
        with idle(box, 300):
            await asyncio.sleep(2)
            spent, written = cpu_s(box) - before, len(box.log) - size
        assert spent < 0.5, f"{spent} CPU seconds in 2 s"
        assert written < 200_000, f"{written} bytes of log in 2 s:\n{box.log[-2000:]}"
        await box.client(rounds=20, total_s=20).ping(auth=tgt["games"])


async def test_idle_connections_cannot_use_up_few_descriptors(folder, tgt, tmp_path):
    """The limit of connections is what there are descriptors for: the oldest silent ones make room below it."""
    box = Auksd(tmp_path / "few", folder)
    start(box, "sh", "-c", 'ulimit -n 150; exec "$@"', "sh", *COMMAND_LINE, "-f", str(box.config))
    try:
        assert box.lines("auksd.files", limit=150), box.log
        for _ in range(40):  # of crowds that came at once, one in some sixty had left no descriptor for a moment
            with idle(box, 400):
                for _ in range(3):
                    began = time.monotonic()
                    await box.client().ping(auth=tgt["games"])
                    assert time.monotonic() - began < 2
    finally:
        box.kill()


async def test_a_blackholed_primary_costs_one_short_deadline(auksd, tgt):
    """A listener whose queue is full drops our SYN, as a host that is gone does."""
    with socket.create_server(("127.0.0.1", 0), backlog=0) as hole, contextlib.ExitStack() as stack:
        for _ in range(8):
            sock = stack.enter_context(socket.socket())
            sock.setblocking(False)
            sock.connect_ex(hole.getsockname())
        primary = Server("127.0.0.1", f"{SERVICE}@REALM.TEST", hole.getsockname()[1])
        began = time.monotonic()
        await AuksClient([primary, auksd.server], limits=Limits(connect_s=0.5)).ping(auth=tgt["games"])
        assert 0.4 < time.monotonic() - began < 3, "one deadline for connecting, no more"


def test_a_client_creates_no_log_file(auksd, folder, tgt, tmp_path):
    """AUKS' library creates its LogFile, /tmp/auksapi.log by default, even at level 0."""
    (tmp_path / "cc").write_bytes(file_v4(tgt["games"]))
    (tmp_path / "auks.conf").write_text(
        f"common {{ PrimaryHost = 127.0.0.1 ; PrimaryPort = {auksd.port} ; PrimaryPrincipal = {SERVICE}@REALM.TEST ; }}"
        f" api {{ LogFile = {tmp_path}/api.log ; LogLevel = 3 ; }}"
    )
    command = [sys.executable, "-m", "hipercow_slurm", "auks", "-p", "-f", str(tmp_path / "auks.conf")]
    environment = {**os.environ, "KRB5CCNAME": f"FILE:{tmp_path}/cc"}
    done = subprocess.run(command, capture_output=True, timeout=20, env=environment)
    assert done.returncode == 0, done
    assert sorted(path.name for path in tmp_path.iterdir()) == ["auks.conf", "cc"]
