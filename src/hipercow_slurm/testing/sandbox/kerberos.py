"""The realm: configuration of the KDC and its clients, principals, keytabs handed to the hosts that own them.

The tolerated clock skew is a few seconds, so that an expired ticket is refused when it expires and not five
minutes later. Only users' tickets are short when a test asks for that; machines' live ten hours.
"""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from hipercow_slurm.testing.sandbox import layout
from hipercow_slurm.testing.sandbox.hosts import Tree
from hipercow_slurm.testing.sandbox.layout import Options, service_principal

CLOCKSKEW_S = 3
PEOPLE_KDC_CONF = "/etc/krb5kdc/people.conf"

_HARMLESS = ("No policy specified for", "No dictionary file specified")

_KRB5_CONF = f"""\
[libdefaults]
    default_realm = {layout.REALM}
    dns_lookup_realm = false
    dns_lookup_kdc = false
    dns_canonicalize_hostname = false
    rdns = false
    forwardable = true
    renew_lifetime = {{renew_life}}
    clockskew = {CLOCKSKEW_S}
[realms]
    {layout.REALM} = {{{{
        kdc = {layout.fqdn(layout.HEAD)}:{layout.KDC_PORT}
        auth_to_local = RULE:[1:$1@$0](^[a-z]+@{layout.PEOPLE_REALM.replace(".", "[.]")}$)s/@.*//
        auth_to_local = DEFAULT
    }}}}
    {layout.PEOPLE_REALM} = {{{{
        kdc = {layout.fqdn(layout.HEAD)}:{layout.PEOPLE_KDC_PORT}
    }}}}
[domain_realm]
    .{layout.DOMAIN} = {layout.REALM}
"""

_KDC_CONF = """\
[kdcdefaults]
    kdc_listen = {address}:{port}
    kdc_tcp_listen = {address}:{port}
[realms]
    {realm} = {{
        database_name = /var/lib/krb5kdc/{realm}
        key_stash_file = /var/lib/krb5kdc/{realm}.stash
        supported_enctypes = aes256-cts-hmac-sha1-96:normal
        max_life = 10h
        max_renewable_life = 7d
        default_principal_flags = +preauth
    }}
[logging]
    kdc = STDERR
    default = FILE:/var/log/kadmin.log
"""


def write_config(tree: Tree, options: Options) -> None:
    """krb5.conf on every host but the laptop, kdc.conf on the head."""
    for host in options.hosts:
        if host != layout.LAPTOP:
            (tree.etc(host) / "krb5.conf").write_text(_KRB5_CONF.format(renew_life=options.renew_life))
    etc = tree.etc(layout.HEAD) / "krb5kdc"
    etc.mkdir()
    address = options.addresses[layout.HEAD]
    for name, realm, port in (
        ("kdc.conf", layout.REALM, layout.KDC_PORT),
        ("people.conf", layout.PEOPLE_REALM, layout.PEOPLE_KDC_PORT),
    ):
        (etc / name).write_text(_KDC_CONF.format(address=address, realm=realm, port=port))
    (tree.var(layout.HEAD) / "lib/krb5kdc").mkdir(mode=0o700)


def make_passwords(options: Options) -> dict[str, str]:
    """A password for each user, new in each sandbox."""
    return {user.name: secrets.token_hex(8) for user in options.users}


def make_realm(tree: Tree, options: Options, passwords: dict[str, str], on_head: Sequence[str]) -> None:
    """Make the database with all principals, and hand out the keytabs.

    Args:
        on_head: what must stand before a command to run it on the head.

    Raises:
        RuntimeError: a tool failed, with what it said.
    """
    keytabs = tree.var(layout.HEAD) / "lib/krb5kdc/keytabs"
    keytabs.mkdir(mode=0o700)
    wanted = _keytabs(tree, options)
    people = [
        f"addprinc -pw {password} -maxlife {options.ticket_life} -maxrenewlife {options.renew_life} {user}"
        for user, password in passwords.items()
    ]
    queries: list[str] = []
    if options.two_realms:
        # The one key that both realms have: the machines' realm believes what the people's says.
        trust = f"addprinc -pw {secrets.token_hex(16)} krbtgt/{layout.REALM}@{layout.PEOPLE_REALM}"
        _database([*on_head, "env", f"KRB5_KDC_PROFILE={PEOPLE_KDC_CONF}"], layout.PEOPLE_REALM, [*people, trust])
        queries.append(trust)
    else:
        queries += people
    made: set[str] = set()
    for target, principals in wanted.items():
        for principal in principals:
            if principal in made:
                continue  # several hosts share its key
            made.add(principal)
            # A standalone smbd refuses the PAC that MIT's KDC puts into tickets since 1.20.
            flags = "+no_auth_data_required " if principal.startswith("cifs/") else ""
            queries.append(f"addprinc -randkey {flags}{principal}")
        queries.append(f"ktadd -norandkey -k /var/lib/krb5kdc/keytabs/{_flat(target)} {' '.join(principals)}")
    _database(on_head, layout.REALM, queries)
    for target, (uid, path) in {name: _destination(tree, name) for name in wanted}.items():
        shutil.move(keytabs / _flat(target), path)
        os.chown(path, uid, uid)


def _database(on_head: Sequence[str], realm: str, queries: list[str]) -> None:
    """Make a realm's database and its principals."""
    # The password of a database whose stash lies beside it protects nothing.
    _tool([*on_head, "kdb5_util", "create", "-s", "-r", realm], "master\nmaster\n")
    said = _tool([*on_head, "kadmin.local", "-r", realm], "".join(f"{query}\n" for query in queries))
    # Its exit code is 0 whatever happened to the queries.
    complaints = [line for line in said.splitlines() if line.strip() and not line.startswith(_HARMLESS)]
    if complaints:
        raise RuntimeError(f"kadmin.local: {'; '.join(complaints)}")


def _keytabs(tree: Tree, options: Options) -> dict[str, list[str]]:
    """Which keytab holds which principals; the name is a host or one of our programs."""
    head = layout.HEAD
    return {
        "api": [service_principal("HTTP", head)],
        "signer": [service_principal("slurm-signer", head)],
        "auksd": [service_principal("auks", head)],
        layout.FILES: [service_principal("nfs", layout.FILES), service_principal("cifs", layout.FILES)],
        **{host: [service_principal("host", host)] for host in options.slurm_hosts if host not in options.kernel_nodes},
        **{node: [service_principal("host", node), layout.CIFS_MOUNT.name] for node in options.kernel_nodes},
    }


def _destination(tree: Tree, name: str) -> tuple[int, Path]:
    """Owner and place of a keytab."""
    owners = {"api": layout.API, "signer": layout.SIGNER, "auksd": layout.AUKSD}
    if name in owners:
        return owners[name].uid, tree.etc(layout.HEAD) / "hipercow-slurm" / f"{name}.keytab"
    return 0, tree.etc(name) / "krb5.keytab"


def _flat(name: str) -> str:
    return f"{name}.keytab"


def _tool(argv: list[str], typed: str) -> str:
    """Run a tool with ``typed`` on its standard input; what it printed on standard error."""
    done = subprocess.run(argv, input=typed, text=True, capture_output=True, timeout=60)
    if done.returncode:
        raise RuntimeError(f"{' '.join(argv)} ended with {done.returncode}: {done.stderr.strip()}")
    return done.stderr
