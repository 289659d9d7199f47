"""Which folder on the nodes a laptop's folder is: mount tables as systems print them, and the operator's rows."""

from __future__ import annotations

from pathlib import Path

import pytest

from hipercow_slurm.errors import ConfigError, ProtocolError
from hipercow_slurm.hipercow import paths
from hipercow_slurm.hipercow.paths import Mount, Row, Share

WORK = Mount(Share("files.example.org", "work"), Path("/media/work"))


@pytest.mark.parametrize(
    ("text", "share"),
    [
        ("//files/work", Share("files", "work")),
        ("//pat@Files.Example.org/work/group a", Share("files.example.org", "work/group a")),
        (r"\\files\work\deep", Share("files", "work/deep")),
        ("files:/export/work/", Share("files", "export/work")),
        ("[fe80::1]:/x", Share("fe80::1", "x")),
        ("/dev/sda1", None),
        ("tmpfs", None),
        ("//files", None),
    ],
)
def test_a_share_by_all_its_names(text: str, share: Share | None) -> None:
    assert Share.parse(text) == share


def test_linux_mount_table() -> None:
    """Spaces are octal there, the root of what is mounted may be a folder of the share, and most lines are no share."""
    table = (
        "25 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw\n"
        "80 25 0:60 / /media/my\\040work rw,relatime shared:40 - cifs //files.example.org/work\\040a rw,vers=3.1.1\n"
        "81 25 0:61 /group /mnt/group rw master:1 - nfs4 files:/export rw\n"
        "short\n"
    )
    assert paths.parse_mountinfo(table) == [
        Mount(Share("files.example.org", "work a"), Path("/media/my work")),
        Mount(Share("files", "export/group"), Path("/mnt/group")),
    ]


def test_mac_mount_table() -> None:
    table = (
        "/dev/disk3s1s1 on / (apfs, sealed, local, read-only, journaled)\n"
        "//pat@files.example.org/my%20work on /Volumes/my work (smbfs, nodev, nosuid, mounted by pat)\n"
        "map auto_home on /System/Volumes/Data/home (autofs, automounted, nobrowse)\n"
    )
    found = paths.parse_mount(table)
    assert found == [Mount(Share("files.example.org", "my work"), Path("/Volumes/my work"))]


def test_windows_mappings() -> None:
    table = (
        '#TYPE Microsoft.Management.Infrastructure.CimInstance\n"Status","LocalPath","RemotePath"\n'
        '"OK","W:","\\\\files\\work"\n"Disconnected","X:","\\\\files\\other"\n"OK","","\\\\files\\ipc"\n'
    )
    assert paths.parse_smb_mapping(table) == [Mount(Share("files", "work"), Path("W:/"))]


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([Row("//files.example.org/work", "/mnt/work")], "/mnt/work/alice/p"),
        ([Row("//files/work", "/mnt/work")], "/mnt/work/alice/p"),  # the server's short name
        ([Row("//FILES.example.org/work/", "/mnt/work/")], "/mnt/work/alice/p"),
        ([Row("//files/work", "/a"), Row("//other/work", "/b")], "/a/alice/p"),
    ],
)
def test_a_folder_is_found_on_the_nodes(rows: list[Row], expected: str) -> None:
    assert paths.find(Path("/media/work/alice/p"), [WORK], rows) == (WORK, expected)


def test_the_innermost_mount_and_the_most_exact_row_win() -> None:
    inner = Mount(Share("files", "work/group/deep"), Path("/media/work/deep"))
    rows = [Row("//files/work", "/a"), Row("//files/work/group", "/b")]
    assert paths.find(Path("/media/work/deep/x"), [WORK, inner], rows) == (inner, "/b/deep/x")


def test_no_share_and_a_foreign_one_are_told_apart() -> None:
    """Two servers whose short names are alike, but whose domains differ, are two."""
    with pytest.raises(ConfigError, match="Can't map local directory '/home/pat'") as caught:
        paths.find(Path("/home/pat"), [WORK], [Row("//files/work", "/a")])
    assert caught.value.code == "no-share"
    with pytest.raises(ConfigError, match="does not know the share '//files\\.example\\.org/work'") as caught:
        paths.find(Path("/media/work"), [WORK], [Row("//files.example.com/work", "/a"), Row("//files/wor", "/b")])
    assert "//files.example.com/work, //files/wor" in (caught.value.hint or "")


def test_a_bad_answer_is_not_guessed_at() -> None:
    with pytest.raises(ProtocolError):
        paths.told({"paths": [{"share": "//a/b"}]})
