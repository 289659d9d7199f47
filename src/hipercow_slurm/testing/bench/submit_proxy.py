"""nginx before slurmrestd, in a sandbox: TLS, HTTP and an access log, and nothing else.

It knows no users, checks nothing and keeps nothing, so its row says what part of the distance between our API and
slurmrestd is the price of being reached over TLS at all, on the CPUs at hand.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from hipercow_slurm.testing.bench.submit_load import PROXY_PORT
from hipercow_slurm.testing.sandbox import Sandbox
from hipercow_slurm.testing.sandbox.layout import API, CONFIG, HEAD, REST_SOCKET

_FOLDER = "/tmp/bench-nginx"  # in the sandbox
_TEMPORARY = "\n".join(
    f"    {kind}_temp_path {_FOLDER}/{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
)
_CONF = f"""\
pid {_FOLDER}/pid;
error_log {_FOLDER}/error.log;
master_process off;
events {{ worker_connections 2000; }}
http {{
    access_log {_FOLDER}/access.log;
{_TEMPORARY}
    keepalive_requests 1000000;
    upstream slurmrestd {{
        server unix:{REST_SOCKET};
        keepalive 16;
    }}
    server {{
        listen {PROXY_PORT} ssl;
        ssl_certificate {CONFIG}/api.crt;
        ssl_certificate_key {CONFIG}/api.key;
        ssl_protocols TLSv1.3;
        location / {{
            proxy_pass http://slurmrestd;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
        }}
    }}
}}
"""


@contextlib.contextmanager
def nginx(sandbox: Sandbox) -> Iterator[None]:
    """Runs on the head as the API's user, who may talk to slurmrestd, with as many connections to it as the API.

    Raises:
        CommandError: it does not start; holds what it said.
    """
    sandbox.run(HEAD, ["install", "-d", "-o", API.name, _FOLDER])
    sandbox.run(HEAD, ["sh", "-c", f"cat > {_FOLDER}/conf"], input=_CONF)
    sandbox.run(HEAD, ["/usr/sbin/nginx", "-e", f"{_FOLDER}/error.log", "-c", f"{_FOLDER}/conf"], user=API.name)
    try:
        yield
    finally:
        sandbox.run(HEAD, ["sh", "-c", f"kill $(cat {_FOLDER}/pid)"])
