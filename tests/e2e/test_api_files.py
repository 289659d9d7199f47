"""Output live, and files up and down, read and written on the Kerberized share as the user."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from hipercow_slurm.testing.sandbox import Sandbox
from hipercow_slurm.testing.story import eventually
from person import URL, Answer, Person

pytestmark = pytest.mark.e2e
OCTETS = {"Content-Type": "application/octet-stream"}


@pytest.fixture(scope="module")
def alice(sandbox: Sandbox) -> Iterator[Person]:
    person = Person(sandbox, "alice")
    yield person
    person.ask("DELETE", "/v1/sessions/current")


def events(answer: Answer) -> list[tuple[str, int | None, Any]]:
    """(event, id, data) of a whole stream."""
    assert answer.status == 200 and answer.headers["content-type"].startswith("text/event-stream"), answer
    found = []
    for block in answer.text.strip().split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.splitlines() if not line.startswith(":"))
        if fields:
            number = int(fields["id"]) if "id" in fields else None
            found.append((fields["event"], number, json.loads(fields["data"])))
    return found


def test_output_is_followed_live_and_a_broken_stream_goes_on_where_it_was(alice: Person) -> None:
    job_id = alice.submit("for i in 1 2 3; do echo \"line $i é\"; sleep 2; done; printf '\\xff'; exit 3\n").json[
        "job_id"
    ]
    seen = events(alice.ask("GET", f"/v1/jobs/{job_id}/output/events"))
    kinds = [kind for kind, _, _ in seen]
    states = [data["state"] for kind, _, data in seen if kind == "state"]
    assert states[-1] == "FAILED" and "RUNNING" in states, seen
    text = "".join(data["text"] for kind, _, data in seen if kind == "output")
    assert text == "line 1 é\nline 2 é\nline 3 é\n\N{REPLACEMENT CHARACTER}", seen
    first = next(index for index, event in enumerate(seen) if event[0] == "output")
    failed = next(index for index, event in enumerate(seen) if event[2] == {"state": "FAILED"})
    assert kinds[-1] == "end" and seen[-1][2]["exit_code"] == 3, seen
    assert first < failed and kinds.count("output") >= 2, f"not live: {seen}"

    after_first = seen[first][1]
    again = events(
        alice.ask(
            "GET",
            f"/v1/jobs/{job_id}/output?encoding=base64",
            headers={"Accept": "text/event-stream", "Last-Event-ID": str(after_first)},
        )
    )
    exact = b"".join(base64.b64decode(data["base64"]) for kind, _, data in again if kind == "output")
    whole = "line 1 é\nline 2 é\nline 3 é\n".encode() + b"\xff"
    assert exact == whole[after_first:], again


@pytest.mark.slow
def test_standard_error_is_followed_live(alice: Person) -> None:
    """In a file of its own, and in that of standard output."""
    script = "for i in 1 2; do echo out $i; echo err $i >&2; sleep 2; done\n"
    job_id = alice.submit(script, error="err-%j.txt").json["job_id"]
    seen = events(alice.ask("GET", f"/v1/jobs/{job_id}/output/events?stream=stderr"))
    told = [data["text"] for kind, _, data in seen if kind == "output"]
    assert "".join(told) == "err 1\nerr 2\n" and len(told) == 2, seen
    same = alice.submit("echo both >&2\n").json["job_id"]
    seen = events(alice.ask("GET", f"/v1/jobs/{same}/output/events?stream=stderr"))
    assert [data["text"] for kind, _, data in seen if kind == "output"] == ["both\n"], seen


@pytest.mark.slow
def test_output_that_is_written_anew_is_told_from_its_beginning(alice: Person) -> None:
    """As a requeued job's is: what the new file has up to the old one's length was never told."""
    job_id = alice.submit("echo a long first line; sleep 12\n").json["job_id"]
    address, path = f"/v1/jobs/{job_id}/output", f"/home/alice/slurm-{job_id}.out"
    with ThreadPoolExecutor(1) as pool:
        follower = pool.submit(alice.ask, "GET", f"{address}/events")
        eventually("its first line", lambda: alice.ask("GET", address).text == "a long first line\n", within_s=15)
        time.sleep(3)  # the follower has it, too
        assert alice.ask("PUT", "/v1/files", params={"path": path}, headers=OCTETS, content="anew\n").status == 200
        seen = events(follower.result())
    told = [(number, data["offset"], data["text"]) for kind, number, data in seen if kind == "output"]
    assert told == [(18, 0, "a long first line\n"), (5, 0, "anew\n")], seen


@pytest.mark.slow
def test_a_stream_ends_with_its_session(sandbox: Sandbox, alice: Person) -> None:
    """Would have caught: output told to whoever has a connection, for as long as the job runs."""
    other = Person(sandbox, "alice")
    job_id = other.submit("for i in $(seq 60); do echo $i; sleep 1; done\n").json["job_id"]
    eventually("a line", lambda: alice.ask("GET", f"/v1/jobs/{job_id}/output").text.startswith("1\n"), within_s=20)
    with ThreadPoolExecutor(1) as pool:
        follower = pool.submit(other.ask, "GET", f"/v1/jobs/{job_id}/output/events")
        time.sleep(2)
        assert other.ask("DELETE", "/v1/sessions/current").status == 204
        ended = time.monotonic()
        seen = events(follower.result())
        took = time.monotonic() - ended
    alice.ask("DELETE", f"/v1/jobs/{job_id}")
    assert took < 5 and "output" in {kind for kind, _, _ in seen}, (took, seen)
    assert seen[-1][0] == "problem" and seen[-1][2]["code"] == "not-authenticated", seen


def test_a_stream_of_anothers_job_is_refused(sandbox: Sandbox, alice: Person) -> None:
    job_id = alice.submit("true\n", hold=True).json["job_id"]
    bob = Person(sandbox, "bob")
    refused = bob.ask("GET", f"/v1/jobs/{job_id}/output/events")
    bob.ask("DELETE", "/v1/sessions/current")
    alice.ask("DELETE", f"/v1/jobs/{job_id}")
    assert (refused.status, refused.json["code"]) == (404, "no-such-job"), refused


def test_a_file_goes_up_is_listed_and_comes_down_as_alices(sandbox: Sandbox, alice: Person) -> None:
    path = "/home/alice/up load.txt"
    put = alice.ask(
        "PUT", "/v1/files", params={"path": path, "mode": "0640"}, headers=OCTETS, content="first\nsecond\n"
    )
    assert (put.status, put.json) == (200, {"path": path, "size": 13}), put
    shorter = alice.ask("PUT", "/v1/files", params={"path": path}, headers=OCTETS, content="once\nmore\n")
    assert shorter.json["size"] == 10, shorter
    whole = alice.ask("GET", "/v1/files", params={"path": path})
    assert (whole.status, whole.text) == (200, "once\nmore\n"), whole
    part = alice.ask("GET", "/v1/files", params={"path": path}, headers={"Range": "bytes=-5"})
    assert (part.status, part.text, part.headers["content-range"]) == (206, "more\n", "bytes 5-9/10"), part
    changed = {"Range": "bytes=-5", "If-Range": '"another"'}  # answers have no such tag: it can be no match
    assert alice.ask("GET", "/v1/files", params={"path": path}, headers=changed).status == 200
    beyond = alice.ask("GET", "/v1/files", params={"path": path}, headers={"Range": "bytes=99-"})
    assert (beyond.status, beyond.headers["content-range"]) == (416, "bytes */10"), beyond
    listed = alice.ask("GET", "/v1/files", params={"path": "/home/alice"}).json
    entry = next(row for row in listed["entries"] if row["name"] == "up load.txt")
    assert (entry["type"], entry["size"], entry["mode"]) == ("file", 10, "0640"), listed
    job_id = alice.submit(f"stat -c '%U %a' '{path}'\nrm '{path}'\n").json["job_id"]
    assert alice.ended(job_id)["state"] == "COMPLETED"
    assert alice.ask("GET", f"/v1/jobs/{job_id}/output").text.splitlines()[-1] == "alice 640"


UP_AND_DOWN = """
import httpx, json, os, sys
ask = json.load(sys.stdin)
client = httpx.Client(base_url=ask["url"], verify="/etc/hipercow-slurm/ca.pem", timeout=60, trust_env=False)
client.headers.update({**ask["headers"], "Content-Type": "application/octet-stream"})
sent, path = os.urandom(5_000_001), "/v1/files?path=/home/alice/binary"
put = client.put(path, content=sent)
whole, part = client.get(path), client.get(path, headers={"Range": "bytes=1048570-4194310"})
more = client.put(path, content=iter([bytes(2**20)] * ask["too_many_mib"]))
same = client.get(path).content == sent
print(json.dumps([put.json(), whole.content == sent, part.content == sent[1048570:4194311], more.json()["code"], same]))
"""


def test_bytes_of_every_kind_come_back_and_too_many_are_refused(sandbox: Sandbox, alice: Person) -> None:
    """Would have caught: bytes that are no text changed on the way, pieces of a large file out of order, and a file
    emptied for an upload that is refused."""
    limit = alice.ask("GET", "/v1/cluster").json["limits"]["file_bytes"]
    ask = {"url": URL, "headers": alice.headers, "too_many_mib": limit // 2**20 + 1}
    done = sandbox.run("laptop", ["hipercow-python", "-c", UP_AND_DOWN], user="laptop", input=json.dumps(ask))
    put, *told = json.loads(done.stdout)
    assert put == {"path": "/home/alice/binary", "size": 5_000_001}, done.stdout
    assert told == [True, True, "body-too-large", True], done.stdout


HEAD_THEN_GET = """
import httpx, json, sys, time
ask = json.load(sys.stdin)
client = httpx.Client(base_url=ask["url"], verify="/etc/hipercow-slurm/ca.pem", timeout=60, trust_env=False)
head = client.head(ask["path"], headers=ask["headers"])
begin = time.monotonic()
ready = client.get("/v1/ready")
print(json.dumps([head.status_code, dict(head.headers), ready.status_code, time.monotonic() - begin]))
"""


def test_head_tells_a_size_and_reads_no_file(sandbox: Sandbox, alice: Person) -> None:
    """Would have caught: HEAD of a file of 300 MB keeps its connection, and the file server, busy for 16 s."""
    job_id = alice.submit("truncate -s 300M $HOME/large\n").json["job_id"]
    assert alice.ended(job_id)["state"] == "COMPLETED"
    ask = {"url": URL, "path": "/v1/files?path=/home/alice/large", "headers": alice.headers}
    command = ["hipercow-python", "-c", HEAD_THEN_GET]
    done = sandbox.run("laptop", command, user="laptop", input=json.dumps(ask), timeout=90)
    status, headers, ready, took = json.loads(done.stdout)
    alice.ended(alice.submit("rm $HOME/large\n").json["job_id"])
    assert (status, ready) == (200, 200), done.stdout
    assert (headers["content-length"], headers["accept-ranges"]) == (str(300 * 2**20), "bytes"), headers
    assert took < 5, f"the next request on the connection waited {took:.1f} s"


def test_a_directory_is_made_as_alice(sandbox: Sandbox, alice: Person) -> None:
    """Once; a second time it is simply there; and nowhere that is not hers."""

    def make(path: str, **more: str) -> Answer:
        return alice.ask("PUT", "/v1/directories", params={"path": path, **more})

    home = alice.ask("GET", "/v1/sessions/current").json
    assert (home["localname"], home["home"]) == ("alice", "/home/alice"), home
    assert make("/home/alice/made", mode="0750").json == {"path": "/home/alice/made", "created": True}
    assert make("/home/alice/made").json["created"] is False
    job_id = alice.submit("stat -c '%U %a %F' made\ntouch made/file\nln -sfn /home/bob made/link\n").json["job_id"]
    assert alice.ended(job_id)["state"] == "COMPLETED"
    assert alice.ask("GET", f"/v1/jobs/{job_id}/output").text == "alice 750 directory\n"
    for path, status, code in (
        ("/home/alice/made/file", 409, "file-exists"),
        ("/home/alice/none/below", 404, "no-such-file"),
        ("/home/alice/made/link/below", 400, "is-a-symlink"),
        ("/home/bob/mine", 403, "access-denied"),
        ("/home/alice/../bob/mine", 400, "bad-path"),
        ("/etc/mine", 404, "output-elsewhere"),
        ("/home/alice/" + "n" * 300, 400, "bad-path"),
    ):
        answer = make(path)
        assert (answer.status, answer.json["code"]) == (status, code), (path, answer)
    assert make("/home/alice/other", mode="7777").status == 400


@pytest.mark.parametrize(
    ("path", "status", "code"),
    [
        ("/home/bob/x", 403, "access-denied"),
        ("/home/alice/../bob/x", 400, "bad-path"),
        ("/home/alice/x\0y", 400, "bad-path"),
        ("relative", 400, "bad-path"),
        ("/etc/passwd", 404, "output-elsewhere"),
        ("/home/alice/nosuch", 404, "no-such-file"),
        ("/home/alice/" + "n" * 300, 400, "bad-path"),
        ("", 400, "bad-path"),
    ],
)
def test_paths_that_lead_elsewhere_are_refused(alice: Person, path: str, status: int, code: str) -> None:
    answer = alice.ask("GET", "/v1/files", params={"path": path})
    assert (answer.status, answer.json["code"]) == (status, code), answer


def test_the_share_itself_is_listed(alice: Person) -> None:
    """/home was said to be on no file server."""
    listed = alice.ask("GET", "/v1/files", params={"path": "/home"})
    assert {"alice", "bob"} <= {row["name"] for row in listed.json["entries"]}, listed
    refused = alice.ask("PUT", "/v1/files", params={"path": "/home/"}, headers=OCTETS, content="x")
    assert refused.status in (400, 403), refused  # a directory, or on a file system that is read-only


def test_a_pipe_is_neither_read_nor_written_nor_called_a_link(sandbox: Sandbox, alice: Person) -> None:
    """A PUT was told that it is a symbolic link, which version 4.0 of NFS says of all that is no regular file."""
    sandbox.run("c1", ["sh", "-c", "test -p /home/alice/pipe || mkfifo /home/alice/pipe"], user="alice")
    for method, more in (("GET", {}), ("PUT", {"headers": OCTETS, "content": "x"})):
        answer = alice.ask(method, "/v1/files", params={"path": "/home/alice/pipe"}, **more)
        assert (answer.status, answer.json["code"]) == (400, "bad-request"), (method, answer)


def test_links_are_not_followed_and_others_homes_not_written(alice: Person) -> None:
    job_id = alice.submit("ln -sfn /home/bob lnk\n").json["job_id"]
    alice.ended(job_id)
    for params in ({"path": "/home/alice/lnk/x"}, {"path": "/home/alice/lnk"}):
        assert alice.ask("GET", "/v1/files", params=params).status >= 400
    assert (
        alice.ask("PUT", "/v1/files", params={"path": "/home/alice/lnk/x"}, headers=OCTETS, content="x").status >= 400
    )
    refused = alice.ask("PUT", "/v1/files", params={"path": "/home/bob/x"}, headers=OCTETS, content="x")
    assert (refused.status, refused.json["code"]) == (403, "access-denied"), refused
    badmode = alice.ask(
        "PUT", "/v1/files", params={"path": "/home/alice/m", "mode": "4755"}, headers=OCTETS, content="x"
    )
    assert badmode.status == 400, badmode
    as_json = alice.ask("PUT", "/v1/files", params={"path": "/home/alice/m"}, json={})
    assert as_json.status == 415, as_json
