"""Other releases of Slurm than this machine's: real ones, out of Debian's newer releases, for a sandbox to run.

    python -m hipercow_slurm.testing.slurm_tree        builds what is missing; about a minute each

debootstrap makes a whole root tree of the Debian release. Only Slurm and munge are wanted of it: a job's shell,
``klist`` and our own programs stay this machine's. So beside each tree lies a *graft*: its Slurm's programs and plugins
with two words of their ELF headers changed (patchelf: the loader, and where it looks for libraries), so that they run
on the tree's own libc and libraries wherever they stand. A sandbox mounts them over this machine's (sandbox/hosts.py).
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from hipercow_slurm.errors import ConfigError, UnavailableError

FOLDER_VARIABLE = "HIPERCOW_SLURM_TREES"
FOLDER = "/var/cache/hipercow-slurm/trees"

# Slurm's release -> Debian's. Debian 12's own, 22.05, is this machine's. sid moves on: `_check_release` tells.
RELEASES = {"24.11": "trixie", "26.05": "sid"}

# Where a sandbox's hosts find the tree; the grafted programs have it in their headers.
MOUNTED = "/run/slurm-tree"
PLUGINS = "/usr/lib/{arch}/slurm-wlm"

_MIRROR = "http://deb.debian.org/debian"
_SLURM = ("slurmctld", "slurmd", "slurmdbd", "slurmrestd", "slurm-client")
_PLUGIN_PACKAGES = ("slurm-wlm-basic-plugins", "slurm-wlm-jwt-plugin", "slurm-wlm-mysql-plugin")
_PACKAGES = (*_SLURM, *_PLUGIN_PACKAGES, "munge", "libslurm-dev")
_BUILD_S = 900


@dataclass(frozen=True, slots=True)
class SlurmTree:
    """One release: ``root`` is Debian's tree, ``graft`` what is mounted over this machine's files."""

    release: str
    folder: Path

    @property
    def root(self) -> Path:
        return self.folder / "root"

    @property
    def headers(self) -> Path:
        """To build the plugin with: holds ``slurm/spank.h`` and no other library's headers."""
        return self.folder / "include"

    @property
    def programs(self) -> Path:
        """The grafted programs, in one folder."""
        return self.folder / "graft/programs"

    @property
    def plugins(self) -> Path:
        """The grafted plugins, for PLUGINS."""
        return self.folder / "graft/plugins"

    @property
    def version(self) -> str:
        """Such as ``24.11.5``."""
        return (self.folder / "version").read_text().strip()

    def make_plugin(self, source: Path, into: Path) -> None:
        """Build our SPANK plugin for this Slurm.

        Raises:
            ConfigError: it does not build; the message has the compiler's words.
        """
        argv = ["make", "-s", "-C", str(source), f"OUT={into}", f"CFLAGS=-O2 -g -I{self.headers}"]
        done = subprocess.run(argv, capture_output=True, text=True)
        if done.returncode != 0:
            raise ConfigError(f"the plugin does not build for Slurm {self.version}: {done.stderr[-2000:]}")

    def mounts(self) -> Iterator[tuple[Path, str]]:
        """What to mount where, so that a host has this Slurm and not this machine's."""
        yield self.root, MOUNTED
        yield self.plugins, PLUGINS.format(arch=_architecture())
        for program in sorted(self.programs.iterdir()):
            for folder in ("/usr/bin", "/usr/sbin"):
                if os.path.lexists(f"{folder}/{program.name}"):
                    yield program, f"{folder}/{program.name}"


def folder() -> Path:
    """Where the trees are kept."""
    return Path(os.environ.get(FOLDER_VARIABLE) or FOLDER)


def find(release: str) -> SlurmTree:
    """The tree of a release of Slurm.

    Raises:
        ConfigError: there is no such release, or its tree has not been built.
    """
    if release not in RELEASES:
        raise ConfigError(f"no Slurm {release!r}; besides this machine's own there are {', '.join(RELEASES)}")
    tree = SlurmTree(release, folder() / release)
    if not (tree.folder / "version").exists() or not (tree.programs / "slurmdbd").exists():  # an older one has none
        raise ConfigError(
            f"Slurm {release} has not been brought to {folder()}",
            code="slurm-tree-missing",
            hint=f"{sys.executable} -m hipercow_slurm.testing.slurm_tree",
        )
    return tree


def build(release: str) -> SlurmTree:
    """The tree of a release, made if it is not there.

    Raises:
        ConfigError: a program is missing, or Debian has another Slurm by now.
        UnavailableError: debootstrap failed; the message has the end of its log.
    """
    with _lock():
        try:
            return find(release)
        except ConfigError as error:
            if error.code != "slurm-tree-missing":
                raise
        missing = [name for name in ("debootstrap", "patchelf", "unshare") if not shutil.which(name)]
        if missing:
            raise ConfigError(f"missing: {', '.join(missing)}", hint="tools/setup.sh acceptance installs them")
        with tempfile.TemporaryDirectory(prefix=f"{release}.new.", dir=folder()) as name:
            new = SlurmTree(release, Path(name, release))
            new.folder.mkdir()
            _bootstrap(new, RELEASES[release])
            _graft(new)
            _check_release(new)
            with contextlib.suppress(FileNotFoundError):
                (folder() / release).rename(Path(name, "old"))
            new.folder.rename(folder() / release)
        return find(release)


@contextmanager
def _lock() -> Iterator[None]:
    """One builder at a time."""
    folder().mkdir(parents=True, exist_ok=True)
    with (folder() / "lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _bootstrap(tree: SlurmTree, suite: str) -> None:
    """Debian's tree. In a mount namespace of its own: what debootstrap mounts ends with it, whatever happens."""
    log = tree.folder / "debootstrap.log"
    argv = ["unshare", "--mount", "--propagation", "private", "debootstrap", "--variant=minbase"]
    argv += [f"--include={','.join(_PACKAGES)}", suite, str(tree.root), _mirror()]
    with log.open("w") as output:
        try:
            done = subprocess.run(argv, stdout=output, stderr=output, stdin=subprocess.DEVNULL, timeout=_BUILD_S)
        except subprocess.TimeoutExpired:
            raise UnavailableError(f"debootstrap {suite}: not done after {_BUILD_S} s", code="slurm-tree") from None
    if done.returncode != 0:
        words = "\n".join(log.read_text(errors="replace").splitlines()[-10:])
        raise UnavailableError(f"debootstrap {suite} failed ({done.returncode}):\n{words}", code="slurm-tree")
    shutil.rmtree(tree.root / "var/cache/apt", ignore_errors=True)


def _mirror() -> str:
    """Where this machine's own Debian packages come from."""
    argv = ["apt-get", "indextargets", "--format", "$(SITE)", "Created-By: Packages", "Label: Debian"]
    sites = subprocess.run(argv, capture_output=True, text=True, check=False).stdout.split()
    return sites[0] if sites else _MIRROR


def _graft(tree: SlurmTree) -> None:
    """Copies of Slurm's programs and plugins that run on the mounted tree's loader and libraries."""
    libraries = f"{MOUNTED}/usr/lib/{_architecture()}"
    plugins = PLUGINS.format(arch=_architecture())
    # Of the old kind (DT_RPATH): it counts for the libraries' libraries and for plugins too.
    path = ["--force-rpath", "--set-rpath", f"{plugins}:{libraries}"]
    tree.programs.mkdir(parents=True)
    for package in (*_SLURM, "munge"):
        for program in _programs_of(tree, package):
            shutil.copy2(program, tree.programs / program.name)
            _patchelf(*path, "--set-interpreter", _loader(tree), tree.programs / program.name)
    shutil.copytree(tree.root / plugins.lstrip("/"), tree.plugins, symlinks=True)
    for plugin in tree.plugins.iterdir():
        if plugin.is_file() and not plugin.is_symlink():
            _patchelf(*path, plugin)
    tree.headers.mkdir()
    (tree.headers / "slurm").symlink_to("../root/usr/include/slurm")


def _programs_of(tree: SlurmTree, package: str) -> Iterator[Path]:
    """The ELF programs of a package."""
    for line in (tree.root / f"var/lib/dpkg/info/{package}.list").read_text().splitlines():
        path = tree.root / line.lstrip("/")
        if re.match(r"/(usr/)?s?bin/", line) and path.is_file() and not path.is_symlink():
            with path.open("rb") as file:
                if file.read(4) == b"\x7fELF":
                    yield path


def _loader(tree: SlurmTree) -> str:
    """The tree's dynamic loader, as the hosts see it; links in the tree would lead into the host's own."""
    (loader,) = (tree.root / f"usr/lib/{_architecture()}").glob("ld-linux-*.so.*")
    return f"{MOUNTED}/usr/lib/{_architecture()}/{loader.name}"


def _patchelf(*arguments: str | Path) -> None:
    done = subprocess.run(["patchelf", *map(str, arguments)], capture_output=True, text=True)
    if done.returncode != 0:
        raise UnavailableError(f"patchelf {arguments[-1]}: {done.stderr.strip()}", code="slurm-tree")


def _check_release(tree: SlurmTree) -> None:
    """Ask the new Slurm itself what it is; writes the file that says the tree is whole."""
    argv = ["chroot", str(tree.root), "slurmctld", "-V"]
    said = subprocess.run(argv, capture_output=True, text=True, check=False).stdout.strip()
    version = said.removeprefix("slurm-wlm ").removeprefix("slurm ")
    if not version.startswith(f"{tree.release}."):
        raise ConfigError(f"Debian {RELEASES[tree.release]} has {said or 'no Slurm'}, and {tree.release} was wanted")
    (tree.folder / "version").write_text(f"{version}\n")


def _architecture() -> str:
    """Debian's name for the folder of this machine's libraries, such as ``x86_64-linux-gnu``."""
    return f"{os.uname().machine}-linux-gnu"


def main(releases: Sequence[str]) -> None:
    """Build what is missing."""
    for release in releases or RELEASES:
        tree = build(release)
        print(f"Slurm {tree.version} in {tree.folder}", flush=True)


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except (ConfigError, UnavailableError) as problem:
        sys.exit(f"{problem.message}\n{problem.hint or ''}".strip())
