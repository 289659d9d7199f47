"""The user's default ccache as a link to a job's: only ever the agent's own link is touched."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from hipercow_slurm.agent import install
from hipercow_slurm.agent.config import AgentConfig, CCachePattern, default_ccache
from hipercow_slurm.agent.default_link import DefaultLink
from hipercow_slurm.agent.jobs import Job, Ticket
from hipercow_slurm.errors import ConfigError
from hipercow_slurm.values import TicketTimes

ALICE, BOB = 5001, 5002
TICKET = Ticket("alice@REALM.TEST", TicketTimes(1, 2**31, 0))


class Box:
    """A /tmp with a link for alice's jobs."""

    def __init__(self, folder: Path) -> None:
        self.tmp = folder / "tmp"
        self.tmp.mkdir()
        self.tmp.chmod(0o1777)
        self.pattern = CCachePattern(f"{self.tmp}/krb5cc_%u_%j")
        self.link = self.tmp / f"krb5cc_{ALICE}"
        self.links = DefaultLink(f"{self.tmp}/krb5cc_%u", self.pattern)

    def job(self, job_id: int, *, uid: int = ALICE, ticket: Ticket | None = TICKET) -> Job:
        name = self.pattern.name(uid, job_id)
        install.write(name.removeprefix("FILE:"), b"\5\4 of %d" % job_id, uid=uid, gid=uid)
        return Job(job_id, uid, uid, name, started=job_id, ticket=ticket)

    def settle(self, *jobs: Job) -> str | None:
        """Where the link points afterwards; None if there is no link."""
        self.links.settle(ALICE, ALICE, jobs)
        return self.link.readlink().name if self.link.is_symlink() else None

    def names(self) -> list[str]:
        return sorted(entry.name for entry in self.tmp.iterdir() if not entry.name.startswith("krb5cc_5001_"))


@pytest.fixture
def box(tmp_path: Path) -> Box:
    return Box(tmp_path)


def test_made_kept_moved_removed(box: Box) -> None:
    """It is the user's (kinit must be able to remove it), stays with its job, and moves when that ends."""
    one, two, three = box.job(1), box.job(2), box.job(3)
    assert box.settle(one) == "krb5cc_5001_1"
    assert (box.link.lstat().st_uid, box.link.lstat().st_gid) == (ALICE, ALICE)
    assert box.link.read_bytes() == b"\5\4 of 1"
    before = box.link.lstat().st_ino
    assert box.settle(one, two, three) == "krb5cc_5001_1" and box.link.lstat().st_ino == before, "moved for nothing"
    assert box.settle(two, three) == "krb5cc_5001_3"
    assert box.settle() is None and box.names() == [], "something is left behind"


def test_a_job_without_a_ticket_is_not_linked(box: Box) -> None:
    """Its file is not there: the link would lead nowhere."""
    assert box.settle(box.job(1), box.job(2, ticket=None)) == "krb5cc_5001_1"
    assert box.settle(box.job(2, ticket=None)) is None


@pytest.mark.parametrize("whose", [ALICE, BOB])
def test_what_is_not_the_agents_stays(box: Box, whose: int) -> None:
    """A ccache of kinit or PAM, and a trap that another user laid: neither is replaced, and nothing is followed."""
    victim = box.tmp / "victim"
    for make in (
        lambda: box.link.write_bytes(b"of kinit"),
        lambda: box.link.symlink_to(victim),
        lambda: box.link.symlink_to(box.tmp / f"krb5cc_{BOB}_7"),
        lambda: box.link.mkdir(),
    ):
        make()
        os.chown(box.link, whose, whose, follow_symlinks=False)
        before = box.link.lstat()
        box.settle(box.job(1))
        box.settle()
        assert box.link.lstat() == before, "it was changed or replaced"
        assert not victim.exists()
        box.link.rmdir() if box.link.is_dir() else box.link.unlink()
    assert box.settle(box.job(1)) == "krb5cc_5001_1", "not made when it was possible again"
    assert box.names() == [box.link.name]


def test_a_link_of_another_user_that_looks_like_ours_stays(box: Box) -> None:
    box.link.symlink_to(box.tmp / f"krb5cc_{ALICE}_1")
    os.lchown(box.link, BOB, BOB)
    box.settle(box.job(1))
    assert box.link.lstat().st_uid == BOB


def test_links_that_an_earlier_agent_left(box: Box) -> None:
    """It died between making the link and giving it to the user, or the job of the link is long gone."""
    one = box.job(1)
    for target, owner in ((1, 0), (99, ALICE)):
        box.link.symlink_to(box.tmp / f"krb5cc_{ALICE}_{target}")
        os.lchown(box.link, owner, owner)
        assert box.settle(one) == "krb5cc_5001_1" and box.link.lstat().st_uid == ALICE
        box.link.unlink()
    (box.tmp / f"{install.ASIDE}0123").symlink_to("nowhere")
    assert install.sweep(str(box.tmp)) == 1 and box.names() == [], "half taken away, and not swept"


def test_a_file_that_came_between_look_and_act_is_put_back(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    """kinit runs in the moment in which the link is moved: its new file is not lost."""
    one, two = box.job(1), box.job(2)
    box.settle(one)
    rename = os.rename

    def kinit_was_faster(source: str, target: str, **folders: int) -> None:
        if source == box.link.name:
            box.link.unlink()
            box.link.write_bytes(b"of kinit")
        rename(source, target, **folders)

    monkeypatch.setattr(os, "rename", kinit_was_faster)
    assert box.settle(two) is None
    assert box.link.read_bytes() == b"of kinit" and box.names() == [box.link.name]


def test_directory_of_the_user_is_refused(box: Box, capsys: pytest.CaptureFixture[str]) -> None:
    """Whoever may rename there could have root give away another file."""
    one = box.job(1)
    os.chown(box.tmp, ALICE, ALICE)
    for _ in range(2):
        assert box.settle(one) is None and box.names() == []
    said = capsys.readouterr().out
    assert said.count("agent.no_default_link") == 1 and "not root's" in said, said


def test_destroyed_through_the_link_is_noticed(box: Box) -> None:
    path = box.pattern.name(ALICE, 1).removeprefix("FILE:")
    box.job(1)
    assert not install.destroyed(path, uid=ALICE)
    Path(path).write_bytes(bytes(500))
    assert install.destroyed(path, uid=ALICE)


@pytest.mark.parametrize(
    ("ccache", "given", "path"),
    [
        ("/tmp/krb5cc_%u_%j", None, "/tmp/krb5cc_%u"),
        ("FILE:/tmp/krb5cc_%j", None, "/tmp/krb5cc_%u"),
        ("/tmp/krb5cc_%u_%j", "", None),
        ("/run/user/%u/krb5cc_%j", None, None),
        ("DIR:/tmp/krb5cc_%u_%j", None, None),
        ("KCM:%u:%j", None, None),
        ("KCM:%u:%j", "", None),
        ("/run/tickets/%u/krb5cc_%j", "FILE:/tmp/krb5cc_%u", "/tmp/krb5cc_%u"),
    ],
)
def test_where_it_is(ccache: str, given: str | None, path: str | None) -> None:
    assert default_ccache(AgentConfig(ccache=ccache, default_ccache=given)) == path


@pytest.mark.parametrize("given", ["krb5cc_%u", "/tmp/krb5cc", "/tmp/%u/krb5cc", "/tmp/krb5cc_%u_%j", "/tmp/../%u"])
def test_where_it_cannot_be(given: str) -> None:
    with pytest.raises(ConfigError, match=r"agent\.default_ccache"):
        default_ccache(AgentConfig(default_ccache=given))
    with pytest.raises(ConfigError, match=r"agent\.ccache is 'KCM"):
        default_ccache(AgentConfig(ccache="KCM:%u:%j", default_ccache="/tmp/krb5cc_%u"))
