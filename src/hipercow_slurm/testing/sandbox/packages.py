"""A sandbox of installed packages: each host gets its own with dpkg, and the site's settings as an admin makes them.

/usr and dpkg's database are overlays, one per host: what is installed in a sandbox is seen on that host alone, so a
package that leans on another host's shows. Programs start from their units (see ``unit.py``).
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

from hipercow_slurm.errors import ConfigError
from hipercow_slurm.testing.sandbox import layout
from hipercow_slurm.testing.sandbox.hosts import Tree
from hipercow_slurm.testing.sandbox.layout import DOMAIN, HEAD, LAPTOP, LOGIN, REALM, Options, fqdn

JWKS = f"{layout.CONFIG}/jwks.json"
# Where hosts see the packages' files.
DEBS = f"{layout.PROGRAM}/packages"


def step_of(host: str) -> str:
    """Name of the preparation step that installs a host's packages."""
    return f"packages@{host}"


def command(program: str) -> tuple[str, ...]:
    """What starts one of our programs from its unit."""
    unit = f"/lib/systemd/system/hipercow-slurm-{program}.service"
    return (layout.PYTHON, "-m", "hipercow_slurm.testing.sandbox.unit", unit)


def copy(tree: Tree, options: Options) -> None:
    """Put the packages where every host finds them.

    Raises:
        ConfigError: one is not there, or there are several versions of it.
    """
    into = tree.program / "packages"
    into.mkdir()
    for name in sorted({name for host in options.hosts for name in options.packages_on(host)}):
        found = list(Path(options.packages).glob(f"{name}_*.deb"))
        if len(found) != 1:
            raise ConfigError(f"{options.packages} has {len(found)} files {name}_*.deb; make deb builds one")
        shutil.copy(found[0], into / f"{name}.deb")


def install(host: str, options: Options, on_host: Sequence[str]) -> None:
    """``dpkg --install`` on the host, without a question.

    Args:
        on_host: what must stand before a command to run it there.

    Raises:
        CalledProcessError: it failed; what it said is in the step's log.
    """
    debs = [f"{DEBS}/{name}.deb" for name in options.packages_on(host)]
    environment = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "DEBIAN_FRONTEND": "noninteractive", "LANG": "C.UTF-8"}
    subprocess.run([*on_host, "dpkg", "--install", *debs], env=environment, check=True, timeout=300)


def configure(host: str, tree: Tree, options: Options) -> None:
    """What the admin of this site writes into the files that the packages brought."""
    folder = tree.etc(host) / "hipercow-slurm"
    for path in folder.glob("*.toml"):
        text = path.read_text()
        for example, ours in {
            "EXAMPLE.ORG": REALM,
            "EXAMPLE[.]ORG": REALM.replace(".", "[.]"),
            "example.org": DOMAIN,
            "example[.]org": DOMAIN.replace(".", "[.]"),
        }.items():
            text = text.replace(example, ours)
        path.write_text(_EDIT[path.stem](text))
    if host == HEAD:
        for reader in (LOGIN, LAPTOP):
            shutil.copy(folder / "api.crt", tree.etc(reader) / "hipercow-slurm/ca.pem")


def _uncomment(text: str, *keys: str) -> str:
    return re.sub(rf"^#(?=(?:{'|'.join(map(re.escape, keys))}))", "", text, flags=re.M)


def _api(text: str) -> str:
    return _uncomment(text, "[[files]]", "prefix =", "server =", "export =")


def _auksd(text: str) -> str:
    operator = f"[[rule]]\nprincipal = '^host/{re.escape(fqdn(HEAD))}@{re.escape(REALM)}$'\nrole = \"admin\"\n"
    text = text.replace("[[rule]]\n", f"{operator}[[rule]]\n", 1)
    return _uncomment(text, "[audit]", 'path = "/var/log')


# File -> its further edits.
_EDIT: dict[str, Callable[[str], str]] = {
    "api": _api,
    "auksd": _auksd,
    "signer": str,
    "agent": lambda text: f"{text}sweep_s = 10\n",
    "client": lambda text: _uncomment(text, "url =", "ca ="),
}
