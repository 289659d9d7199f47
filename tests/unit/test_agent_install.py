"""A job's ccache in a world-writable directory, against users who know the name beforehand."""

from __future__ import annotations

import os
import stat
import threading
from pathlib import Path

import pytest

from hipercow_slurm.agent import install
from hipercow_slurm.errors import UnavailableError

ALICE, BOB = 5001, 5002


@pytest.fixture
def tmp(tmp_path: Path) -> Path:
    """Like /tmp: root's, sticky, for everybody."""
    folder = tmp_path / "tmp"
    folder.mkdir()
    folder.chmod(0o1777)
    return folder


def names(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


def check_written(path: Path, content: bytes) -> None:
    found = path.lstat()
    assert stat.S_ISREG(found.st_mode), f"{path} is not a regular file"
    assert (stat.S_IMODE(found.st_mode), found.st_uid, found.st_gid) == (0o600, ALICE, ALICE)
    assert path.read_bytes() == content


def test_written_complete_and_alone(tmp: Path) -> None:
    path = tmp / "krb5cc_5001_42"
    old_umask = os.umask(0)  # whatever the umask
    try:
        assert install.write(str(path), b"one", uid=ALICE, gid=ALICE) is None
    finally:
        os.umask(old_umask)
    check_written(path, b"one")
    assert names(tmp) == [path.name], "something was left behind"


def test_replaced_by_another_inode(tmp: Path) -> None:
    """A reader that has the old file open goes on reading the old ticket, never half of each."""
    path = tmp / "krb5cc_5001_42"
    install.write(str(path), b"old", uid=ALICE, gid=ALICE)
    with path.open("rb") as reader:
        install.write(str(path), b"new and longer", uid=ALICE, gid=ALICE)
        assert reader.read() == b"old"
    check_written(path, b"new and longer")


def test_never_absent_or_partial_while_replaced(tmp: Path) -> None:
    path = tmp / "krb5cc_5001_42"
    contents = {letter * 60_000 for letter in (b"a", b"b")}
    install.write(str(path), b"a" * 60_000, uid=ALICE, gid=ALICE)
    stop, bad = threading.Event(), []

    def watch() -> None:
        while not stop.is_set():
            try:
                if path.read_bytes() not in contents:
                    bad.append("partial")
            except FileNotFoundError:
                bad.append("absent")

    watcher = threading.Thread(target=watch)
    watcher.start()
    for number in range(300):
        install.write(str(path), (b"a", b"b")[number % 2] * 60_000, uid=ALICE, gid=ALICE)
    stop.set()
    watcher.join()
    assert bad == []


def test_no_name_that_gssd_would_take_before_it_is_complete(tmp: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[str, int, int]] = []
    real = os.write

    def spy(file: int, data: bytes) -> int:
        found = os.fstat(file)
        seen.extend((name, found.st_uid, stat.S_IMODE(found.st_mode)) for name in names(tmp))
        return real(file, data)

    monkeypatch.setattr(os, "write", spy)
    install.write(str(tmp / "krb5cc_5001_42"), b"ticket", uid=ALICE, gid=ALICE)
    assert len(seen) == 1 and "krb5cc" not in seen[0][0], seen
    assert seen[0][1:] == (ALICE, 0o600), f"not the user's alone from the first byte: {seen}"


def test_symlink_is_replaced_and_not_followed(tmp: Path) -> None:
    victim = tmp.parent / "shadow"
    victim.write_text("root's own")
    path = tmp / "krb5cc_5001_42"
    path.symlink_to(victim)
    os.lchown(path, BOB, BOB)
    install.write(str(path), b"ticket", uid=ALICE, gid=ALICE)
    check_written(path, b"ticket")
    assert victim.read_text() == "root's own" and victim.stat().st_uid == 0


def test_file_of_another_user_is_replaced(tmp: Path) -> None:
    path = tmp / "krb5cc_5001_42"
    path.write_text("bob was here")
    path.chmod(0o666)
    os.chown(path, BOB, BOB)
    with path.open("rb") as bobs:
        install.write(str(path), b"ticket", uid=ALICE, gid=ALICE)
        assert bobs.read() == b"bob was here", "bob's descriptor shows the ticket"
    check_written(path, b"ticket")


@pytest.mark.parametrize("full", [False, True])
def test_directory_in_the_way_is_moved_aside(tmp: Path, full: bool) -> None:
    """Job ids can be guessed: whoever makes a directory of that name must not keep the ticket away."""
    path = tmp / "krb5cc_5001_42"
    path.mkdir()
    if full:
        (path / "something").write_text("of bob's")
    os.chown(path, BOB, BOB)
    moved = install.write(str(path), b"ticket", uid=ALICE, gid=ALICE)
    check_written(path, b"ticket")
    assert moved is not None and "krb5cc" not in moved
    assert names(tmp) == sorted([moved, path.name])
    assert not full or (tmp / moved / "something").read_text() == "of bob's", "nothing may be lost"


def test_fifo_and_socket_in_the_way(tmp: Path) -> None:
    path = tmp / "krb5cc_5001_42"
    os.mkfifo(path)
    install.write(str(path), b"ticket", uid=ALICE, gid=ALICE)
    check_written(path, b"ticket")


@pytest.mark.parametrize("mode", [0o777, 0o775, 0o757])
def test_directory_where_others_may_rename_is_refused(tmp: Path, mode: int) -> None:
    tmp.chmod(mode)
    with pytest.raises(UnavailableError, match="others may rename") as refused:
        install.write(str(tmp / "krb5cc_5001_42"), b"ticket", uid=ALICE, gid=ALICE)
    assert refused.value.code == "ccache-blocked" and names(tmp) == []


def test_directory_of_another_user_is_refused(tmp: Path) -> None:
    tmp.chmod(0o700)
    os.chown(tmp, BOB, BOB)
    with pytest.raises(UnavailableError, match="belongs to uid 5002"):
        install.write(str(tmp / "krb5cc_5001_42"), b"ticket", uid=ALICE, gid=ALICE)
    os.chown(tmp, ALICE, ALICE)
    install.write(str(tmp / "krb5cc_5001_42"), b"ticket", uid=ALICE, gid=ALICE)
    check_written(tmp / "krb5cc_5001_42", b"ticket")


def test_symlinked_directory_is_refused(tmp: Path) -> None:
    """/run/user/UID belongs to the user, who may put a symlink in it."""
    secret = tmp.parent / "etc"
    secret.mkdir()
    (tmp / "sub").symlink_to(secret)
    with pytest.raises(UnavailableError):
        install.write(str(tmp / "sub" / "krb5cc_5001_42"), b"ticket", uid=ALICE, gid=ALICE)
    assert names(secret) == []


def test_missing_directory_is_said(tmp: Path) -> None:
    with pytest.raises(UnavailableError, match="No such file or directory"):
        install.write(str(tmp / "gone" / "krb5cc_5001_42"), b"ticket", uid=ALICE, gid=ALICE)
    assert install.remove(str(tmp / "gone" / "krb5cc_5001_42"), uid=ALICE) is False


def test_nothing_left_when_writing_fails(tmp: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(UnavailableError, match="No space left"):
        install.write(str(tmp / "krb5cc_5001_42"), b"ticket", uid=ALICE, gid=ALICE)
    assert names(tmp) == []


def test_remove_only_what_is_ours(tmp: Path) -> None:
    ours, other = tmp / "krb5cc_5001_42", tmp / "krb5cc_5001_43"
    for path in (ours, other):
        install.write(str(path), b"ticket", uid=ALICE, gid=ALICE)
    assert install.present(str(ours), uid=ALICE) and not install.present(str(ours), uid=BOB)
    assert install.remove(str(ours), uid=ALICE) is True
    assert names(tmp) == [other.name], "the other job's file went too"
    assert install.remove(str(ours), uid=ALICE) is False


def test_remove_leaves_symlinks_directories_and_strangers_alone(tmp: Path) -> None:
    victim = tmp.parent / "precious"
    victim.write_text("x")
    path = tmp / "krb5cc_5001_42"
    path.symlink_to(victim)
    assert install.remove(str(path), uid=ALICE) is False
    assert victim.exists() and path.is_symlink()
    assert not install.present(str(path), uid=ALICE), "a symlink is no ccache: gssd does not follow it"
    path.unlink()
    path.mkdir()
    assert install.remove(str(path), uid=ALICE) is False and path.is_dir()
    path.rmdir()
    path.write_text("bob's")
    os.chown(path, BOB, BOB)
    assert install.remove(str(path), uid=ALICE) is False and path.exists()


def test_sweep_removes_half_written_files_only(tmp: Path) -> None:
    (tmp / ".hipercow-slurm-0123456789abcdef").write_text("half a ticket")
    for number, inside in enumerate(("tkt", "somebody's")):
        (tmp / f".hipercow-slurm-directory-{number}").mkdir()
        (tmp / f".hipercow-slurm-directory-{number}" / inside).write_text("x")
    (tmp / ".hipercow-slurm-link").symlink_to("/etc/passwd")
    (tmp / "krb5cc_5001_42").write_text("whole")
    assert install.sweep(str(tmp)) == 4
    assert names(tmp) == [".hipercow-slurm-directory-1", "krb5cc_5001_42"] and Path("/etc/passwd").exists()
    assert install.sweep(str(tmp / "missing")) == 0


def test_dir_appears_whole_and_is_replaced_inside(tmp: Path) -> None:
    path = tmp / "krb5cc_5001_42"
    assert install.write_dir(str(path), b"one", uid=ALICE, gid=ALICE) is None
    check_written(path / "tkt", b"one")
    check_written(path / "primary", b"tkt\n")
    assert (path.stat().st_uid, stat.S_IMODE(path.stat().st_mode)) == (ALICE, 0o700) and names(tmp) == [path.name]
    (path / "primary").unlink()
    (path / "tkt").unlink()
    (path / "tkt").symlink_to("/etc/passwd")
    install.write_dir(str(path), b"two", uid=ALICE, gid=ALICE)
    check_written(path / "tkt", b"two")
    assert names(path) == ["primary", "tkt"]
    assert install.remove_dir(str(path), uid=ALICE) is True and names(tmp) == []
    assert install.remove_dir(str(path), uid=ALICE) is False


@pytest.mark.parametrize("squatter", ["file", "symlink", "empty", "full"])
def test_dir_takes_its_name_from_a_squatter(tmp: Path, squatter: str) -> None:
    """Job ids can be guessed: nothing that bob puts there may keep alice's ticket away, or get at it."""
    path, target = tmp / "krb5cc_5001_42", tmp.parent / "bobs"
    target.mkdir()
    match squatter:
        case "file":
            path.write_text("bob's")
        case "symlink":
            path.symlink_to(target)
        case _:
            path.mkdir()
            if squatter == "full":
                (path / "tkt").write_text("bob's")
    os.chown(path, BOB, BOB, follow_symlinks=False)
    moved = install.write_dir(str(path), b"one", uid=ALICE, gid=ALICE)
    check_written(path / "tkt", b"one")
    assert path.lstat().st_uid == ALICE and names(target) == []
    assert moved is None if squatter == "empty" else moved in names(tmp), (moved, names(tmp))


def test_dir_removal_reaches_nothing_of_others(tmp: Path) -> None:
    path, victim = tmp / "krb5cc_5001_42", tmp.parent / "victim"
    victim.mkdir()
    (victim / "tkt").write_text("bob's")
    path.symlink_to(victim)
    with pytest.raises(UnavailableError):
        install.remove_dir(str(path), uid=ALICE)
    assert names(victim) == ["tkt"]
    path.unlink()
    path.mkdir(mode=0o700)
    os.chown(path, BOB, BOB)
    (path / "tkt").write_text("bob's")
    with pytest.raises(UnavailableError):
        install.remove_dir(str(path), uid=ALICE)
    assert names(path) == ["tkt"]


def test_only_a_folder_of_the_uid_is_made_and_only_where_root_alone_writes(tmp: Path) -> None:
    private = tmp.parent / "tickets"
    old_umask = os.umask(0o077)  # the unit's
    try:
        install.make_folder(str(private))
    finally:
        os.umask(old_umask)
    assert private.stat().st_mode & 0o777 == 0o755
    path = private / str(ALICE) / "krb5cc_42"
    install.write(str(path), b"one", uid=ALICE, gid=ALICE)
    assert (path.parent.stat().st_uid, stat.S_IMODE(path.parent.stat().st_mode)) == (ALICE, 0o700)
    install.remove(str(path), uid=ALICE)
    assert names(private) == [], "the empty folder stays"
    for wrong in (private / "other" / "krb5cc_42", tmp / str(ALICE) / "krb5cc_42"):
        with pytest.raises(UnavailableError):
            install.write(str(wrong), b"one", uid=ALICE, gid=ALICE)
    assert names(private) == [] and names(tmp) == []
