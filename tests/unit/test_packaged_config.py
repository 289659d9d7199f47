"""The configuration files that the packages install: the programs take them, also with every comment's key set."""

import re
from pathlib import Path

import msgspec
import pytest

from hipercow_slurm.agent import config as agent
from hipercow_slurm.api import config as api
from hipercow_slurm.auksd import config as auksd
from hipercow_slurm.signer import config as signer

FOLDER = Path(__file__).parents[2] / "packaging/config"
LOAD = {"agent": agent.read, "api": api.load, "auksd": auksd.load, "signer": signer.load}
# Keys whose comment is an example, because what holds without them is nothing at all.
EXAMPLES = {"api.files", "api.metrics.listen", "auksd.retention.grace_s", "auksd.audit.path", "auksd.metrics.listen"}
EXAMPLES |= {"agent.agent.principal"}


@pytest.mark.parametrize("program", LOAD)
def test_the_program_takes_it_as_it_is(program):
    LOAD[program](FOLDER / f"{program}.toml")


@pytest.mark.parametrize("program", LOAD)
def test_each_commented_key_exists_and_shows_its_default(program, tmp_path):
    """A comment that says `#timeout_s = 5` while 15 holds, or a key that was renamed, misleads its reader."""
    text = (FOLDER / f"{program}.toml").read_text()
    bare = tmp_path / "bare.toml"
    bare.write_text(re.sub(r"^#(?=[a-z_]+ = |\[)", "", text, flags=re.M))
    as_shipped, as_commented = (flat(program, LOAD[program](path)) for path in (FOLDER / f"{program}.toml", bare))
    changed = {key for key in as_commented if as_commented[key] != as_shipped.get(key)}
    assert changed <= EXAMPLES, {key: (as_shipped.get(key), as_commented[key]) for key in changed - EXAMPLES}


def flat(name, value):
    """``api.limits.idle_s`` -> value, for every key of the structs."""
    if not isinstance(value, msgspec.Struct):
        return {name: value}
    found = {}
    for key in value.__struct_fields__:
        found |= flat(f"{name}.{key}", getattr(value, key))
    return found
