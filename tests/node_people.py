"""People at the login node, and what a test does to the node side: for tests of agent and plugin in a real Slurm."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from hipercow_slurm.testing.sandbox import Sandbox
from hipercow_slurm.testing.story import LoginNode

AGENT_TOML = "/etc/hipercow-slurm/agent.toml"
BOB = 5002


def with_ticket(sandbox: Sandbox, user: str) -> Iterator[LoginNode]:
    """For a fixture: ``user`` at the login node with a ticket."""
    person = LoginNode(sandbox, user)
    person.kinit()
    yield person
    sandbox.run("head", ["scancel", "-u", user])


def without_ticket(sandbox: Sandbox, user: str, uid: int) -> Iterator[LoginNode]:
    """For a fixture: ``user`` at the login node, with a ticket nowhere."""
    person = LoginNode(sandbox, user)
    sandbox.run("login", ["kdestroy", "-q"], user=user, check=False)
    remove(sandbox, uid)
    yield person
    sandbox.run("login", ["kdestroy", "-q"], user=user, check=False)
    sandbox.run("head", ["scancel", "-u", user])


@contextmanager
def agent_with(sandbox: Sandbox, node: str, settings: str) -> Iterator[None]:
    """The node's agent with lines of its own in section [agent], then as it was."""
    before = sandbox.read(node, AGENT_TOML)
    service = sandbox.service(f"agent@{node}")
    sandbox.run(node, ["tee", AGENT_TOML], input=before.replace("[agent]\n", f"[agent]\n{settings}\n"))
    service.restart()
    try:
        yield
    finally:
        sandbox.run(node, ["tee", AGENT_TOML], input=before)
        service.restart()


def remove(sandbox: Sandbox, uid: int) -> None:
    """The cache forgets a user, by the operator's word."""
    program = (
        "import sys; from hipercow_slurm.krb5 import creds; "
        "from hipercow_slurm.client.auks_blocking import BlockingAuksClient; "
        "from hipercow_slurm.client.upload import Server; "
        "from hipercow_slurm.errors import Error\n"
        "host = creds.keytab_tgt('host/head.sandbox.test', '/etc/krb5.keytab')\n"
        "client = BlockingAuksClient([Server('head.sandbox.test', 'auks/head.sandbox.test@SANDBOX.TEST')])\n"
        "found = [one for one in client.dump(auth=host) if one.uid == int(sys.argv[1])]\n"
        "found and client.remove(int(sys.argv[1]), auth=host)\n"
    )
    sandbox.run("head", ["hipercow-python", "-c", program, str(uid)])


def nodes_are_fine(sandbox: Sandbox) -> None:
    states = sandbox.run("head", ["sinfo", "-h", "-N", "-o", "%n %T %E"]).stdout
    assert "drain" not in states.lower() and "down" not in states.lower(), states
