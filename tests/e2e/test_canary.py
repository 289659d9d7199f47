"""What must never be written down: a password that went every way through the whole cluster, and what it got.

The same look is taken at the end of the whole run, for the passwords of everybody (``tests/fix_sandbox.py``).
"""

from __future__ import annotations

import base64
import json

import pytest

import canary
from hipercow_slurm.testing.sandbox import Sandbox
from person import Person

pytestmark = pytest.mark.e2e


def test_a_password_leaves_no_trace_in_files_and_tokens_none_either(sandbox: Sandbox) -> None:
    """Would have caught: a password, session token or Slurm token in a log, a job's comment, a database, a core."""
    password = sandbox.passwords["bob"]
    bob = Person(sandbox, "bob")
    basic = base64.b64encode(f"bob:{password}".encode()).decode()
    assert bob.ask("GET", "/v1/sessions", headers={"Authorization": f"Basic {basic}"}).status == 200
    made = bob.submit("env; cat /proc/self/environ\n", key="canary")
    assert made.status == 201, made
    bob.ended(made.json["job_id"])
    wrong = f"wrong-{password[::-1]}"
    refused = bob.ask("POST", "/v1/sessions", json={"username": "bob", "password": wrong})
    assert refused.status == 401 and wrong not in refused.text
    token = bob.headers["Authorization"].removeprefix("Bearer ")
    found = canary.in_files(sandbox, [password, wrong, basic, token])
    assert not found, f"a secret is in {found}"
    # What every Slurm token of ours begins with: the same header, in base64.
    kid = json.loads(sandbox.read("head", "/etc/slurm/jwks.json"))["keys"][0]["kid"]
    assert kid, "no key"
    jwt = base64.urlsafe_b64encode(b'{"alg":"RS256","').decode()[:20]
    found = canary.in_files(sandbox, [jwt])
    assert not found, f"a Slurm token is in {found}"


def test_programs_that_need_no_password_never_have_one(sandbox: Sandbox) -> None:
    """The API has it while it asks the KDC. Signer, cache and agents never see one, so none is in their memory."""
    Person(sandbox, "alice")
    needles = [password.encode() for password in sandbox.passwords.values()]
    for pid, name in canary.processes(sandbox).items():
        if name != "api":
            assert not canary.in_memory(pid, needles), f"a password is in the memory of {name}"
            assert canary.in_memory(pid, [b"hipercow_slurm"]), f"the scan finds nothing at all in {name}"
