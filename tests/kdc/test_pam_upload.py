"""At ssh login: the line of docs/how-to/node-side.md in a real PAM session hands the user's ticket over."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from agent_box import Site, make_site
from auksd_box import login, uid_of

from hipercow_slurm.krb5.ccache import file_v4

pytestmark = pytest.mark.kdc

PAGE = Path(__file__).parents[2] / "docs/how-to/node-side.md"
GAMES = uid_of("games")

# What sshd does: a session of a service for a user, with KRB5CCNAME in PAM's environment.
SESSION = """
import ctypes, sys
pam = ctypes.CDLL("libpam.so.0")
class Conv(ctypes.Structure):
    _fields_ = [("talk", ctypes.c_void_p), ("data", ctypes.c_void_p)]
handle, conv = ctypes.c_void_p(), Conv()
folder, user, ccache = (word.encode() for word in sys.argv[1:])
assert pam.pam_start_confdir(b"sshd", user, ctypes.byref(conv), folder, ctypes.byref(handle)) == 0
assert pam.pam_putenv(handle, b"KRB5CCNAME=" + ccache) == 0
code = pam.pam_open_session(handle, 0)
pam.pam_end(handle, code)
sys.exit(code)
"""


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    yield from make_site()


def test_the_documented_line_hands_the_ticket_over(site: Site, tmp_path: Path) -> None:
    (line,) = re.findall(r"^ +(session .*pam_exec.*)$", PAGE.read_text(), flags=re.MULTILINE)
    agent = site.agent("pam")
    agent.config.chmod(0o644)
    program = site.folder / "hipercow-slurm"  # as installed, but with this site's configuration
    program.write_text(
        f"#!/bin/sh\nid -u > {site.folder}/ran\nexport KRB5_CONFIG={os.environ['KRB5_CONFIG']}\n"
        f'exec {sys.executable} -m hipercow_slurm "$@" --config {agent.config}\n'
    )
    program.chmod(0o755)
    (site.folder / "ran").touch()
    (site.folder / "ran").chmod(0o666)
    (tmp_path / "sshd").write_text(line.replace("/usr/bin/hipercow-slurm", str(program)) + "\n")
    ccache = site.folder / "games.cc"
    ccache.write_bytes(file_v4(login(site.folder, "games")))
    ccache.chmod(0o600)
    os.chown(ccache, GAMES, GAMES)
    with agent:
        assert agent.ask(f"start 1 {GAMES} {GAMES}").startswith("none "), "the cache has a ticket already"
        done = subprocess.run(
            [sys.executable, "-c", SESSION, str(tmp_path), "games", f"FILE:{ccache}"], capture_output=True, text=True
        )
        assert done.returncode == 0, done
        assert (site.folder / "ran").read_text().strip() == str(GAMES), "not run as the user"
        agent.ask("end 1")
        assert agent.ask(f"start 2 {GAMES} {GAMES}").startswith("ok "), agent.log
