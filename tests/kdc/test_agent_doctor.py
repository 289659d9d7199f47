"""``hipercow-slurm doctor`` against real parts, with one hop really broken at a time."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from agent_box import Agent, Site, make_site
from auksd_box import uid_of

from hipercow_slurm.agent.doctor import Hop, Patient, walk

pytestmark = pytest.mark.kdc

GAMES, NEWS = uid_of("games"), uid_of("news")


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    yield from make_site()


@pytest.fixture(scope="module")
def node(site: Site) -> Iterator[Agent]:
    """A node with a job of games' and one of news', who has no ticket."""
    site.login("games")
    with site.agent("node", poll_s=600.0, answer_s=1.0) as agent:
        agent.ask(f"start 42 {GAMES} {GAMES}")
        agent.ask(f"start 43 {NEWS} {NEWS}")
        yield agent


def doctor(config: Path, *arguments: str, uid: int = 0, **env: str) -> dict[str, dict[str, str]]:
    """What it says of each hop; several of one name: the worst."""
    command = [sys.executable, "-m", "hipercow_slurm", "doctor", "--json", "--config", str(config), *arguments]
    groups: list[int] = []
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=60, env={**os.environ, **env}, user=uid, group=uid,
        extra_groups=groups,
    )  # fmt: skip
    assert done.stdout.startswith("["), done
    hops: list[dict[str, str]] = json.loads(done.stdout)
    assert done.returncode == any(hop["result"] == "bad" for hop in hops), done
    assert all(hop["sentence"] for hop in hops), hops
    assert all(hop["todo"] for hop in hops if hop["result"] == "bad"), f"what is to be done? {hops}"
    found: dict[str, dict[str, str]] = {}
    for hop in sorted(hops, key=lambda one: ("good", "warning", "bad").index(one["result"])):
        found[hop["hop"]] = hop
    return found


def bad(found: dict[str, dict[str, str]]) -> list[str]:
    return sorted(name for name, hop in found.items() if hop["result"] == "bad")


def variant(node: Agent, old: str, new: str) -> Path:
    """The node's configuration with one thing changed."""
    text = node.config.read_text()
    assert old in text, text
    path = node.folder / "variant.toml"
    path.write_text(text.replace(old, new))
    return path


def test_healthy(node: Agent) -> None:
    found = doctor(node.config, "42")
    assert bad(found) == [], found
    assert {"configuration", "node key", "cache", "ACL and role", "agent", "job", "file"} <= set(found), found
    assert "games@REALM.TEST" in found["ACL and role"]["sentence"], found


def test_a_user_looks_at_the_own_job(site: Site, node: Agent) -> None:
    mine = {"KRB5CCNAME": f"FILE:{node.path(GAMES, 42)}"}
    node.config.chmod(0o644)
    found = doctor(node.config, "42", uid=GAMES, **mine)
    assert bad(found) == [] and "games@REALM.TEST" in found["your ticket"]["sentence"], found
    none = doctor(node.config, "42", uid=GAMES, KRB5CCNAME="FILE:/nonexistent")
    assert bad(none) == ["your ticket"] and none["your ticket"]["todo"] == "kinit", none
    other = doctor(node.config, "42", uid=NEWS, KRB5CCNAME="FILE:/nonexistent")
    assert "job" in bad(other), f"news sees games' job: {other}"


def test_configuration(node: Agent) -> None:
    assert bad(doctor(node.folder / "nothing.toml")) == ["configuration"]


def test_node_key(node: Agent) -> None:
    found = doctor(variant(node, "host/node.test@REALM.TEST", "host/other.test@REALM.TEST"))
    assert "node key" in bad(found) and "host/other.test" in found["node key"]["sentence"], found


def test_clock(node: Agent, shift_clock: Callable[[int], dict[str, str]]) -> None:
    found = doctor(node.config, **shift_clock(4000))
    assert "clock" in bad(found) and 3990 < int(found["clock"]["sentence"].split()[0]) < 4010, found
    assert doctor(node.config, **shift_clock(100))["clock"]["result"] == "warning"


def test_cache_is_down(site: Site, node: Agent) -> None:
    site.auksd.stop()
    try:
        found = doctor(node.config, "42")
    finally:
        site.auksd.start()
    assert bad(found) == ["cache"], found


def test_nobody_handed_a_ticket_over(node: Agent) -> None:
    found = doctor(node.config, "43")
    assert "ACL and role" in bad(found) and "upload" in found["ACL and role"]["todo"], found
    assert "job" in bad(found), found


def test_agent_is_down(node: Agent) -> None:
    found = doctor(variant(node, str(node.socket), "/nonexistent/agent.sock"), "42")
    assert bad(found) == ["agent"], found


def test_agent_runs_with_an_older_file(node: Agent) -> None:
    found = doctor(variant(node, "[agent]\n", '[agent]\npolicy = "require"\n'))
    assert found["agent"]["result"] == "warning" and "restart" in found["agent"]["todo"], found


def test_job_of_another_node(node: Agent) -> None:
    found = doctor(node.config, "44")
    assert bad(found) == ["job"], found


def test_file(node: Agent) -> None:
    path = node.path(GAMES, 42)
    good = path.read_bytes()
    try:
        path.chmod(0o644)
        assert bad(doctor(node.config, "42")) == ["file"]
        path.chmod(0o600)
        path.write_bytes(good[:-5])
        assert bad(doctor(node.config, "42")) == ["file"]
        path.unlink()
        assert bad(doctor(node.config, "42")) == ["file"]
        path.symlink_to("/etc/passwd")
        assert bad(doctor(node.config, "42")) == ["file"]
    finally:
        path.unlink(missing_ok=True)
        path.write_bytes(good)
        path.chmod(0o600)
        os.chown(path, GAMES, GAMES)


def look(node: Agent, *, nfs_conf: str, mounts: str, ccache: str = "/tmp/krb5cc_%u_%j") -> list[Hop]:
    folder = node.folder
    (folder / "nfs.conf").write_text(nfs_conf)
    (folder / "mounts").write_text(mounts)
    config = variant(node, f"{node.tmp}/krb5cc_%u_%j", ccache)
    return list(walk(Patient(config, None, folder / "nfs.conf", folder / "mounts")))


CIFS = "//f/d /s cifs rw,multiuser 0 0\n"
NFS = "files:/data /data nfs4 rw,vers=4.2,sec=krb5p 0 0\n"


def results(hops: list[Hop], name: str) -> list[tuple[str, str]]:
    return [(hop.result, hop.sentence + " " + hop.todo) for hop in hops if hop.hop == name]


def test_gssd_settings(node: Any) -> None:
    bounded = "[gssd]\ncontext-timeout=300\n"
    assert [one[0] for one in results(look(node, nfs_conf=bounded, mounts=NFS), "gssd")] == ["good"]
    ((result, said),) = results(look(node, nfs_conf="", mounts=NFS), "gssd")
    assert result == "warning" and "context-timeout" in said, said
    for place in ("/tmp/tkt_%u_%j", "/var/tmp/krb5cc_%u_%j", "/tmp/x/krb5cc_%j"):
        found = results(look(node, nfs_conf=bounded, mounts=NFS, ccache=place), "gssd")
        assert [one[0] for one in found] == ["good", "bad"], place
    scanned = bounded + "cred-cache-directory=/tmp:/run/user/%U\n"
    found = results(look(node, nfs_conf=scanned, mounts=NFS, ccache="/run/user/%u/krb5cc_%j"), "gssd")
    assert [one[0] for one in found] == ["good"], found


def test_mount_options(node: Any) -> None:
    said = results(
        look(node, nfs_conf="", mounts="f:/d /d nfs4 rw,sec=sys 0 0\n//f/d /s cifs rw,sec=krb5 0 0\n"), "mounts"
    )
    assert [one[0] for one in said] == ["warning", "warning"], said
    assert "without Kerberos" in said[0][1] and "multiuser" in said[1][1], said
    ((result, _),) = results(look(node, nfs_conf="", mounts=CIFS), "mounts")
    assert result == "good"


def test_what_the_kernel_renews_smb_sessions_with(node: Agent) -> None:
    """It has no KRB5CCNAME: on a node with SMB mounts the job's user needs a default ccache."""
    for place, wanted in (("/tmp/krb5cc_%u_%j", "good"), ("/run/x/%u/krb5cc_%j", "warning"), ("KCM:%u:%j", "good")):
        ((result, said),) = results(look(node, nfs_conf="", mounts=CIFS, ccache=place), "default ccache")
        assert result == wanted, (place, said)
    assert not results(look(node, nfs_conf="", mounts=NFS), "default ccache")
    look(node, nfs_conf="", mounts=CIFS)
    config = variant(node, "[agent]\n", f'[agent]\ndefault_ccache = "{node.tmp}/krb5cc_%u"\n')
    link = node.tmp / f"krb5cc_{GAMES}"

    def said() -> tuple[str, str]:
        patient = Patient(config, 42, node.folder / "nfs.conf", node.folder / "mounts")
        (found,) = results(list(walk(patient)), "default ccache")
        return found

    assert said()[0] == "warning" and "there is no" in said()[1], said()
    link.symlink_to(node.path(GAMES, 42))
    assert said()[0] == "good" and str(node.path(GAMES, 42)) in said()[1], said()
    link.unlink()
    link.write_bytes(b"of a login")
    assert said()[0] == "warning" and "not the agent's" in said()[1], said()
    link.unlink()
