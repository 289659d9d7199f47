"""hipercow-api's routes where no cluster is needed: who is let in, what is not there, and how a sick node shows."""

from __future__ import annotations

import json
import time
from types import SimpleNamespace
from typing import Any

from starlette.requests import Request

from hipercow_slurm.api import routes_hpcpack as hpcpack
from hipercow_slurm.api.cluster import View, online
from hipercow_slurm.api.config import Hpcpack
from hipercow_slurm.slurm.model import Node


def node(name: str, state: str = "IDLE", flags: tuple[str, ...] = ()) -> Node:
    return Node(
        name=name, state=state, flags=flags, partitions=("main",), cpus=4, cpus_allocated=1, memory_mb=15_800,
        memory_allocated_mb=0, cpu_load=None, features="", gres="", gres_used="", reason=None,
    )  # fmt: skip


async def ask(rest: str, conf: Hpcpack | None, *, last: View | None = None, authorization: str = "") -> Any:
    headers = [(b"authorization", authorization.encode())] if authorization else []
    scope = {"type": "http", "method": "GET", "headers": headers, "path_params": {"rest": rest}, "query_string": b""}

    async def seen_last(keep_s: float) -> View | None:
        return last

    services: Any = SimpleNamespace(
        conf=SimpleNamespace(hpcpack=conf), cluster=SimpleNamespace(last=seen_last, view=None)
    )
    return await hpcpack.get(services, Request(scope))


def seen(*nodes: Node) -> View:
    return View(time.monotonic(), [], list(nodes))


async def test_without_the_table_nothing_is_there() -> None:
    assert (await ask("Clusters", None, last=seen())).status_code == 404


async def test_strangers_are_let_in_only_if_the_site_says_so() -> None:
    refused = await ask("Clusters", Hpcpack(cluster="x"), last=seen())
    assert (refused.status_code, refused.body) == (401, b"Missing or invalid Authorization header.")
    anybody = await ask("clusters", Hpcpack(cluster="x", anonymous=True), last=seen())
    assert (anybody.status_code, json.loads(anybody.body)) == (200, ["x"])


async def test_strangers_are_told_nothing_that_is_not_known() -> None:
    answer = await ask("Clusters", Hpcpack(cluster="x", anonymous=True))
    assert answer.status_code == 503 and set(json.loads(answer.body)) == {"type", "title", "status", "traceId"}


async def test_what_is_there_for_another_method_is_405() -> None:
    """As ASP.NET; it was 404, which sends somebody who has the address right looking for another one."""
    conf = Hpcpack(cluster="x", anonymous=True)
    for rest in ("Auth/login", "joblist", "JobList/"):
        answer = await ask(rest, conf)
        assert (answer.status_code, answer.headers["allow"], answer.body) == (405, "POST", b""), rest


async def test_an_address_may_end_in_a_slash_and_nodes_are_sorted() -> None:
    """ASP.NET's do; ``Clusters/x/`` was 404."""
    answer = await ask("clusters/x/", Hpcpack(cluster="x", anonymous=True), last=seen(node("c10"), node("c1")))
    assert answer.status_code == 200 and json.loads(answer.body)["nodes"] == ["c1", "c10"], answer.body


async def test_load_and_size() -> None:
    conf, view = (
        Hpcpack(cluster="x", anonymous=True),
        seen(node("a"), node("b", "MIXED", ("DRAIN",)), node("c", "DOWN")),
    )
    load = json.loads((await ask("ClusterLoad/x", conf, last=view)).body)["nodeLoads"]
    assert [(row["name"], row["coresInUse"], row["state"]) for row in load] == [
        ("a", 1, "Online"),
        ("b", 1, "Offline"),
        ("c", 1, "Offline"),
    ]
    info = json.loads((await ask("Clusters/x", conf, last=view)).body)
    assert (info["maxRam"], info["maxCores"]) == (15, 4)
    assert (await ask("Clusters/X", conf, last=view)).status_code == 404
    assert online(node("d", "ALLOCATED")) and not online(node("e", flags=("NOT_RESPONDING",)))
