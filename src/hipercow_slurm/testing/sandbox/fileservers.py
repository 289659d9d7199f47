"""The file servers: nfs-ganesha (krb5p only) and smbd (Kerberos only, SMB3 encrypted) over the same private folders.

``/data/USER`` is reached only through them: its disk is in no other host's tree. ``/home`` is also bind-mounted on
Slurm's hosts, where a real site has a kernel NFS mount, and exported, so that the API can read jobs' output.
"""

from __future__ import annotations

from hipercow_slurm.testing.sandbox import hosts, layout
from hipercow_slurm.testing.sandbox.hosts import Tree
from hipercow_slurm.testing.sandbox.layout import Options

GANESHA_CONF = "/etc/ganesha/sandbox.conf"
SMB_CONF = "/etc/samba/sandbox.conf"
_EXPORTS = ("data", "home")
# How long a kernel goes on using a user's ticket that it has, after the last job's file is gone.
CONTEXT_TIMEOUT_S = 15

# The little NFSv4 reader speaks minor version 0.
_GANESHA = f"""\
NFS_CORE_PARAM {{
    Protocols = 4; NFS_Port = {layout.NFS_PORT}; Bind_addr = {layout.FILES_ADDRESS};
    Enable_NLM = false; Enable_RQUOTA = false; Enable_UDP = false;
}}
NFS_KRB5 {{ PrincipalName = nfs; KeytabPath = /etc/krb5.keytab; CCacheDir = /run/ganesha; Active_krb5 = true; }}
NFSv4 {{
    Graceless = true; RecoveryRoot = /var/lib/nfs; IdmapConf = /etc/idmapd.conf; Minor_Versions = 0,1,2;
}}
"""

_GANESHA_EXPORT = """\
EXPORT {{
    Export_Id = {number}; Path = /srv/{name}; Pseudo = /{name}; Access_Type = RW; Squash = Root_Squash;
    SecType = krb5p; Protocols = 4; Transports = TCP; FSAL {{ Name = VFS; }}
}}
"""

_IDMAPD = f"""\
[General]
Domain = {layout.DOMAIN}
Local-Realms = {layout.REALM}, {layout.PEOPLE_REALM}
[Mapping]
Nobody-User = nobody
Nobody-Group = nogroup
"""

_SMB = f"""\
[global]
    realm = {layout.REALM}
    netbios name = FILES
    server role = standalone server
    security = user
    kerberos method = dedicated keytab
    dedicated keytab file = FILE:/etc/krb5.keytab
    map to guest = never
    ntlm auth = disabled
    disable netbios = yes
    smb ports = {layout.SMB_PORT}
    interfaces = {layout.FILES_ADDRESS}
    bind interfaces only = yes
    server min protocol = SMB3
    smb encrypt = required
    server signing = mandatory
    private dir = /var/lib/samba/private
    lock directory = /var/lib/samba/lock
    state directory = /var/lib/samba/state
    cache directory = /var/lib/samba/cache
    pid directory = /run/samba
    ncalrpc dir = /run/samba/ncalrpc
    load printers = no
    printing = bsd
    printcap name = /dev/null
    disable spoolss = yes
"""


def make_exports(tree: Tree, options: Options) -> None:
    """The disk: each user's private folder under each share, with a secret to read in /data."""
    tree.export.mkdir()
    for name in _EXPORTS:
        (tree.export / name).mkdir()
        for user in options.users:
            hosts.make_home(tree.export / name / user.name, user)
    for user in options.users:
        secret = tree.export / "data" / user.name / "secret"
        secret.write_text(f"secret of {user.name}\n")
        secret.chmod(0o600)
        hosts.chown(secret, user)


def write_config(tree: Tree, options: Options) -> None:
    """Configuration of both servers on their host, and the little that smbclient wants on Slurm's hosts."""
    for host in options.slurm_hosts:
        client = tree.etc(host) / "samba"
        client.mkdir(exist_ok=True)
        (client / "smb.conf").write_text(f"[global]\n    realm = {layout.REALM}\n    disable netbios = yes\n")
    for node in options.kernel_nodes:
        (tree.etc(node) / "nfs.conf").write_text(
            f"[general]\npipefs-directory=/run/rpc_pipefs\n[gssd]\ncontext-timeout={CONTEXT_TIMEOUT_S}\n"
        )
    etc, var = tree.etc(layout.FILES), tree.var(layout.FILES)
    (etc / "idmapd.conf").write_text(_IDMAPD)
    exports = (_GANESHA_EXPORT.format(number=number, name=name) for number, name in enumerate(_EXPORTS, start=1))
    shares = {name: f"/srv/{name}" for name in _EXPORTS} | {"work": layout.SHARE_ON_NODES}
    for path, text in {
        GANESHA_CONF: _GANESHA + "".join(exports),
        SMB_CONF: _SMB + "".join(f"[{name}]\n    path = {path}\n    read only = no\n" for name, path in shares.items()),
    }.items():
        target = etc.parent / path.lstrip("/")
        target.parent.mkdir(exist_ok=True)
        target.write_text(text)
    for part in ("lib/nfs", "lib/samba", "log/samba"):
        (var / part).mkdir()
    for part in ("private", "lock", "state", "cache"):
        (var / "lib/samba" / part).mkdir(mode=0o755 if part != "private" else 0o700)
