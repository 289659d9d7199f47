"""The configuration files of a realm of one's own."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hipercow_slurm.testing.realm import Realm

_KRB5_CONF = """\
[libdefaults]
    default_realm = {name}
    dns_lookup_realm = false
    dns_lookup_kdc = false
    dns_canonicalize_hostname = false
    rdns = false
    canonicalize = false
    forwardable = true
    noaddresses = true
    clockskew = {clockskew_s}
[realms]
{realms}[domain_realm]
{domains}"""

_KDC_CONF = """\
[kdcdefaults]
    kdc_listen = {host}:{port}
    kdc_tcp_listen = {host}:{port}
[realms]
    {name} = {{
        database_name = {dir}/principal
        key_stash_file = {dir}/stash
        kadmind_listen = {host}:{admin_port}
        kpasswd_listen = {host}:{kpasswd_port}
        acl_file = {dir}/kadm5.acl
        max_life = {max_life}
        max_renewable_life = {max_renew}
        default_principal_flags = +preauth
    }}
[logging]
    kdc = FILE:{dir}/kdc.log
    admin_server = FILE:{dir}/kadmin.log
    default = FILE:{dir}/other.log
"""


def krb5_conf(realm: Realm) -> str:
    """What its clients read."""
    rules = "".join(f"        auth_to_local = {rule}\n" for rule in realm.auth_to_local)
    admin = ""
    if realm.passwords_change:
        admin = f"        admin_server = {realm.host}:{realm.admin_port}\n"
        admin += f"        kpasswd_server = {realm.host}:{realm.kpasswd_port}\n"
    realms = f"    {realm.name} = {{\n        kdc = {realm.host}:{realm.port}\n{admin}{rules}    }}\n"
    realms += "".join(f"    {name} = {{\n        kdc = {kdc}\n    }}\n" for name, kdc in realm.others.items())
    domains = "".join(f"    {domain} = {realm.name}\n" for domain in realm.domains)
    return _KRB5_CONF.format(**{**vars(realm), "realms": realms, "domains": domains})


def kdc_conf(realm: Realm) -> str:
    """What its KDC and kadmind read."""
    return _KDC_CONF.format(**vars(realm)) + realm.kdc_conf_more
