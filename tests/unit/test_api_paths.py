"""What the operator writes down is checked when the API starts, not when a job fails."""

from __future__ import annotations

from pathlib import Path

import pytest

from hipercow_slurm.api import config
from hipercow_slurm.errors import ConfigError

BASE = """
[api]
certificate = "a"
key = "b"
realm = "SANDBOX.TEST"
service = "HTTP/head"
[signer]
service = "slurm-signer/head"
[cache]
servers = [{ host = "head", principal = "auks/head" }]
"""


def load(tmp_path: Path, more: str) -> config.Config:
    path = tmp_path / "api.toml"
    path.write_text(BASE + more)
    return config.load(path)


@pytest.mark.parametrize(
    "share", ["//files/work", "//files.example.org/work/group a", "files:/export/work", "[::1]:/x"]
)
def test_a_share_is_named_as_mount_tables_name_it(tmp_path: Path, share: str) -> None:
    conf = load(tmp_path, f'[[paths]]\nshare = "{share}"\npath = "/mnt/work"\n')
    assert [(row.share, row.path) for row in conf.paths] == [(share, "/mnt/work")]


@pytest.mark.parametrize(
    ("more", "complaint"),
    [
        ('[[paths]]\nshare = "files/work"\npath = "/mnt"\n', "is not a share"),
        ('[[paths]]\nshare = "\\\\\\\\files\\\\work"\npath = "/mnt"\n', "is not a share"),
        ('[[paths]]\nshare = "//files/work"\npath = "mnt"\n', "is not an absolute path"),
        ('[[paths]]\nshare = "//files/work"\npath = "/mnt/.."\n', "is not an absolute path"),
        ('[hipercow]\npython = { "3.11" = "python3" }\n', "[hipercow] python \"3.11\" 'python3' is not an absolute"),
        ("[hipercow]\npyhton = {}\n", "pyhton"),
    ],
)
def test_what_cannot_be_meant_is_refused(tmp_path: Path, more: str, complaint: str) -> None:
    """A wrong row would send every laptop's jobs to a folder that is not there."""
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, more)
    assert complaint in str(caught.value), str(caught.value)


@pytest.mark.parametrize(
    ("processes", "connections", "good"), [(7, 16, True), (4, 30, True), (4, 31, False), (8, 16, False), (1, 0, False)]
)
def test_slurmrestd_is_not_asked_for_more_connections_than_it_takes(
    tmp_path: Path, processes: int, connections: int, good: bool
) -> None:
    """Beyond its 124 a submission waits until it is over, and nobody knows what came of it."""
    path = tmp_path / "api.toml"
    api = BASE.replace("[api]", f'[api]\nlisten = "[::]:8443"\nprocesses = {processes}')
    path.write_text(f"{api}[slurm]\nconnections = {connections}\n")
    if good:
        assert config.load(path).slurm.connections == connections
    else:
        with pytest.raises(
            ConfigError, match=rf"{processes * (connections + 1)} connections; slurmrestd takes 2 to 124"
        ):
            config.load(path)
