"""Other releases of Slurm: what is said when one is not there."""

from __future__ import annotations

from pathlib import Path

import pytest

from hipercow_slurm.errors import ConfigError
from hipercow_slurm.testing import slurm_tree


def test_a_release_nobody_has_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"no Slurm '23.02'.*24\.11, 26\.05"):
        slurm_tree.find("23.02")


def test_a_release_that_was_not_brought_here_is_said_with_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A half-built tree has no version file, and is none."""
    monkeypatch.setenv(slurm_tree.FOLDER_VARIABLE, str(tmp_path))
    (tmp_path / "24.11/root").mkdir(parents=True)
    with pytest.raises(ConfigError) as caught:
        slurm_tree.find("24.11")
    assert caught.value.code == "slurm-tree-missing" and str(tmp_path) in caught.value.message
    assert "-m hipercow_slurm.testing.slurm_tree" in (caught.value.hint or "")


def test_programs_are_mounted_only_where_this_machine_has_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A mount point that does not exist would end the sandbox; a program nobody has here (sackd) is left out."""
    monkeypatch.setenv(slurm_tree.FOLDER_VARIABLE, str(tmp_path))
    folder = tmp_path / "26.05"
    (folder / "graft/programs").mkdir(parents=True)
    for name in ("srun", "no-such-program"):
        (folder / "graft/programs" / name).touch()
    (folder / "version").write_text("26.05.5\n")
    with pytest.raises(ConfigError, match="has not been brought"):
        slurm_tree.find("26.05")  # one that was built before slurmdbd belonged to it
    (folder / "graft/programs/slurmdbd").touch()
    tree = slurm_tree.find("26.05")
    targets = [target for _, target in tree.mounts()]
    assert tree.version == "26.05.5" and slurm_tree.MOUNTED in targets
    assert any(target.endswith("/srun") for target in targets), targets
    assert not any("no-such-program" in target for target in targets), targets
