"""The user's default ccache as a link to the ccache of one of their jobs here: for who has no KRB5CCNAME.

    /tmp/krb5cc_5001 -> /tmp/krb5cc_5001_42

The kernel's SMB client renews a session in a worker of its own, which has no environment: cifs.upcall takes the user's
default ccache then. rpc.gssd looks at regular files only and never sees the link.

Rule 1: what is not our own stays: a file of kinit or PAM, any other link. Our own is a symlink, the user's or
root's, to what would be the ccache of a job of that uid. Nothing is renamed over the name: none of those is lost.
Rule 2: the link is the user's. ``kinit`` removes it and makes a file, as it does with any ccache; a link of root's
would stand in its way in a sticky directory.
Rule 3: its directory is root's: nobody but root can put anything else there while the link is still root's.
Rule 4: it stays with its job as long as that has a ticket here, and moves to the newest other job before that file
goes: all jobs of a uid have the same ticket.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterable

from hipercow_slurm import log
from hipercow_slurm.agent import install, place
from hipercow_slurm.agent.config import CCachePattern
from hipercow_slurm.agent.jobs import Job
from hipercow_slurm.errors import UnavailableError


class DefaultLink:
    """The links of all users.

    Args:
        path: with ``%u`` for the uid; None: there are none.
        pattern: of the jobs' ccaches.
    """

    def __init__(self, path: str | None, pattern: CCachePattern) -> None:
        self._path = path
        self._pattern = pattern
        self._said: set[int] = set()  # of whose link it was said why there is none

    def settle(self, uid: int, gid: int, jobs: Iterable[Job]) -> None:
        """Make the link of ``uid`` right for ``jobs``, all that this uid has here; blocks. Trouble is logged, once
        as long as it lasts: no ticket waits for a link."""
        if self._path is None:
            return
        path = self._path.replace("%u", str(uid))
        targets = {place.split(job.ccache)[1]: job for job in jobs if job.ticket is not None}
        why = "it is not the agent's"
        try:
            with install.explained(path), install.directory(path, uid) as (folder, name):
                if self._settle(folder, name, uid, gid, targets):
                    self._said.discard(uid)
                    return
        except UnavailableError as error:
            why = error.message
        if targets and uid not in self._said:
            self._said.add(uid)
            log.get().warning("agent.no_default_link", uid=uid, ccache=path, why=why)

    def _settle(self, folder: int, name: str, uid: int, gid: int, targets: dict[str, Job]) -> bool:
        """False: something that is not ours is there."""
        if os.fstat(folder).st_uid != 0:
            raise OSError("its directory is not root's")
        found = self._own(folder, name, uid)
        newest = max(targets.items(), key=lambda one: (one[1].started, one[1].job_id), default=(None, None))[0]
        target = found[0] if found and found[0] in targets else newest
        if found is None and target is None:
            return True
        if found == (target, uid):
            return True
        if found is not None and not self._take_away(folder, name, uid):
            return False
        if target is not None:
            try:
                os.symlink(target, name, dir_fd=folder)
            except FileExistsError:
                return False
            os.chown(name, uid, gid, dir_fd=folder, follow_symlinks=False)
        log.get().info("agent.default_link", uid=uid, ccache=target)
        return True

    def _own(self, folder: int, name: str, uid: int) -> tuple[str, int] | None:
        """Where our own link points, and whose it is; None if there is none of ours."""
        try:
            found = os.stat(name, dir_fd=folder, follow_symlinks=False)
            if not stat.S_ISLNK(found.st_mode) or found.st_uid not in (0, uid):
                return None
            target = os.readlink(name, dir_fd=folder)
        except FileNotFoundError:
            return None
        return (target, found.st_uid) if self._pattern.could_be(uid, target) else None

    def _take_away(self, folder: int, name: str, uid: int) -> bool:
        """Remove our link; False if by now it is another's: that is put back."""
        aside = install.aside_name()
        with contextlib.suppress(FileNotFoundError):
            os.rename(name, aside, src_dir_fd=folder, dst_dir_fd=folder)
            if self._own(folder, aside, uid) is None:
                os.rename(aside, name, src_dir_fd=folder, dst_dir_fd=folder)
                return False
            os.unlink(aside, dir_fd=folder)
        return True
