"""``python -m hipercow_slurm.files.nfs4 cat|ls|stat|write HOST PATH``: a Kerberized NFS share without mounting it.

Reads the ticket from ``--ccache``, else KRB5CCNAME, else the default cache. Needs the library ``gssapi`` and nothing
else of ours; jobs run it every second, so it must start fast.

Exit status: 0; else that of the error's family (errors.py): 2 no such file, 3 ticket, 4 access denied, 75 try again.
Errors are one line on standard error: ``nfs4: SENTENCE [CODE]``.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import sys
import threading
from collections.abc import Callable

from hipercow_slurm.errors import Error, InternalError, RequestError
from hipercow_slurm.files.nfs4_attributes import Attributes
from hipercow_slurm.files.nfs4_client import Client, Server

__all__ = ["Attributes", "Client", "Server", "main"]

MAX_INPUT = 256 * 2**20


def main(argv: list[str] | None = None) -> int:
    """Run one command; returns the exit status."""
    options = _parser().parse_args(argv)
    outcome: list[BaseException | None] = []
    connected = threading.Event()

    def work() -> None:
        try:
            server = Server(options.host, options.port, options.security, options.address)
            with Client(server, ccache=options.ccache, timeout_s=options.timeout) as client:
                connected.set()
                COMMANDS[options.command](client, options)
            sys.stdout.flush()
            outcome.append(None)
        except BaseException as error:
            outcome.append(error)
        finally:
            connected.set()

    # In a thread, so that name resolution and libkrb5's waiting for the KDC have a deadline too; every operation
    # after that has its own.
    worker = threading.Thread(target=work, daemon=True)
    worker.start()
    if not connected.wait(options.timeout * 2):
        return _fail(f"no ticket and connection to {options.host} within {options.timeout * 2:g} s [timeout]", 75)
    worker.join()
    return _status(outcome[0])


def _status(error: BaseException | None) -> int:
    if error is None:
        return 0
    if isinstance(error, BrokenPipeError):
        # The reader of our output has what it wanted; keep Python's own flush at exit from complaining.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    if not isinstance(error, Error):
        error = InternalError(f"{type(error).__name__}: {error}")
    return _fail(f"{error.message} [{error.code}]", error.EXIT)


def _fail(sentence: str, status: int) -> int:
    print(f"nfs4: {sentence}", file=sys.stderr)
    return status


def _cat(client: Client, options: argparse.Namespace) -> None:
    if options.limit is not None:
        data, _ = client.read(options.path, offset=options.offset, limit=options.limit)
        sys.stdout.buffer.write(data)
        return
    for chunk in client.stream(options.path, offset=options.offset):
        sys.stdout.buffer.write(chunk)


def _ls(client: Client, options: argparse.Namespace) -> None:
    for entry in client.listdir(options.path):
        about = dataclasses.asdict(entry.attributes) if entry.attributes else {}
        name = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in entry.name)
        if options.json:
            print(json.dumps({"name": name, **about}))
        elif options.long:
            print(f"{about.get('type', '?'):9} {about.get('size', 0):>12} {about.get('owner') or '?':16} {name}")
        else:
            print(name)


def _stat(client: Client, options: argparse.Namespace) -> None:
    about = dataclasses.asdict(client.stat(options.path))
    if options.json:
        print(json.dumps(about))
        return
    about["mode"] = None if about["mode"] is None else f"{about['mode']:04o}"
    print("\n".join(f"{key} {value}" for key, value in about.items() if value is not None))


def _write(client: Client, options: argparse.Namespace) -> None:
    data = os.fsencode(options.text) if options.text is not None else sys.stdin.buffer.read(MAX_INPUT + 1)
    if len(data) > MAX_INPUT:
        raise RequestError(f"more than {MAX_INPUT} bytes of input", code="file-too-large")
    client.write(options.path, data, mode=options.mode, append=options.append)


COMMANDS: dict[str, Callable[[Client, argparse.Namespace], None]] = {
    "cat": _cat,
    "ls": _ls,
    "stat": _stat,
    "write": _write,
}


def _parser() -> argparse.ArgumentParser:
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("host", metavar="HOST", help="the server's name in the realm")
    common.add_argument("path", metavar="PATH", help="absolute path as the server exports it")
    common.add_argument("--ccache", metavar="NAME", help="credential cache (default: KRB5CCNAME)")
    common.add_argument("--security", choices=("krb5", "krb5i", "krb5p"), default="krb5p")
    common.add_argument("--address", help="connect here instead of to HOST")
    common.add_argument("--port", type=int, default=2049)
    common.add_argument("--timeout", type=float, default=15.0, metavar="SECONDS")
    parser = argparse.ArgumentParser(
        prog="python -m hipercow_slurm.files.nfs4", description=(__doc__ or "").partition("\n")[0]
    )
    commands = parser.add_subparsers(dest="command", required=True)
    cat = commands.add_parser("cat", parents=[common], help="print a file")
    cat.add_argument("--offset", type=int, default=0, metavar="BYTES")
    cat.add_argument("--limit", type=int, metavar="BYTES")
    listing = commands.add_parser("ls", parents=[common], help="list a directory")
    listing.add_argument("-l", "--long", action="store_true")
    listing.add_argument("--json", action="store_true", help="one object a line")
    about = commands.add_parser("stat", parents=[common], help="say type, size, owner, mode and time")
    about.add_argument("--json", action="store_true")
    write = commands.add_parser("write", parents=[common], help="write standard input to a file")
    write.add_argument("--text", help="write this instead of standard input")
    write.add_argument("--append", action="store_true")
    write.add_argument("--mode", type=lambda text: int(text, 8), default=0o600, metavar="OCTAL", help="of a new file")
    return parser


if __name__ == "__main__":
    sys.exit(main())
