"""Which machine a host principal is: the answer decides whose tickets it may fetch."""

from __future__ import annotations

import pytest

from hipercow_slurm.errors import AccessError, ConfigError
from hipercow_slurm.slurm.nodes import NodeNames, node_of_principal

BY_DOMAIN = NodeNames("SANDBOX.TEST", domains=["sandbox.test"])


def test_strips_the_domain() -> None:
    assert node_of_principal("host/c1.sandbox.test@SANDBOX.TEST", BY_DOMAIN) == "c1"
    assert node_of_principal("host/c1@SANDBOX.TEST", BY_DOMAIN) == "c1"


@pytest.mark.parametrize(
    "principal",
    [
        "host/c1.sandbox.test@EVIL.TEST",
        "host/c1.evil.test@SANDBOX.TEST",
        "host/c1.sandbox.test.evil.org@SANDBOX.TEST",
        "host/c1xsandbox.test@SANDBOX.TEST",
        "host/sandbox.test@SANDBOX.TEST",
        "host/.sandbox.test@SANDBOX.TEST",
        "host/c1.SANDBOX.TEST@SANDBOX.TEST",
        "nfs/c1.sandbox.test@SANDBOX.TEST",
        "alice@SANDBOX.TEST",
        "host@SANDBOX.TEST",
        "host/@SANDBOX.TEST",
        "host/c1/c2.sandbox.test@SANDBOX.TEST",
        r"host/c1\@x.sandbox.test@SANDBOX.TEST",
        "host/c[1-9].sandbox.test@SANDBOX.TEST",
        "host/c1.sandbox.test\n@SANDBOX.TEST",
        "host/c1.sandbox.test",
        "",
        "host/" + "a" * 300 + ".sandbox.test@SANDBOX.TEST",
    ],
)
def test_refuses_every_other_principal(principal: str) -> None:
    with pytest.raises(AccessError) as refused:
        node_of_principal(principal, BY_DOMAIN)
    assert refused.value.code == "not-a-node"


def test_the_table_goes_before_the_domain() -> None:
    names = NodeNames("R", domains=["x.org"], table={"c1.x.org": "node-001"})
    assert node_of_principal("host/c1.x.org@R", names) == "node-001"
    assert node_of_principal("host/c2.x.org@R", names) == "c2"


def test_a_pattern_must_match_the_whole_host() -> None:
    names = NodeNames("R", pattern=r"(?P<node>gpu[0-9]+)-ib\.x\.org")
    assert node_of_principal("host/gpu07-ib.x.org@R", names) == "gpu07"
    for host in ("gpu07-ib.x.org.evil", "zgpu07-ib.x.org", "gpu07.x.org"):
        with pytest.raises(AccessError):
            node_of_principal(f"host/{host}@R", names)


def test_a_host_with_a_dot_needs_a_rule() -> None:
    with pytest.raises(AccessError) as refused:
        node_of_principal("host/c1.x.org@R", NodeNames("R"))
    assert refused.value.hint


@pytest.mark.parametrize("names", [{"pattern": "("}, {"pattern": "c.*"}, {"table": {"c1.x": "c[1-2]"}}])
def test_a_wrong_rule_is_said_at_start(names: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        NodeNames("R", **names)  # type: ignore[arg-type]
