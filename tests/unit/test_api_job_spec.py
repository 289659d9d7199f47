"""What a laptop sends becomes what Slurm is asked for: absolute paths, a clean environment, warnings."""

import pytest

from hipercow_slurm.api.accounts import Account
from hipercow_slurm.api.job_spec import environment_of, plan
from hipercow_slurm.api.schemas import JobBody
from hipercow_slurm.errors import RequestError

ALICE = Account("alice", 5001, 5001, "/home/alice", "/bin/bash")
SCRIPT = "#!/bin/bash\nhostname\n"


def planned(**given):
    return plan(JobBody(**{"script": SCRIPT, **given}), ALICE, comment="hipercow-slurm:00 request=1")


@pytest.mark.parametrize(
    "name",
    [
        "KRB5CCNAME",
        "KRB5_CONFIG",
        "KRB5_KTNAME",
        "LD_PRELOAD",
        "LD_LIBRARY_PATH",
        "SLURM_JOB_ID",
        "SLURMD_NODENAME",
        "_SLURM_SPANK_OPTION_x",
        "SBATCH_PARTITION",
        "SPANK_X",
        "BASH_ENV",
        "ENV",
        "BASH_FUNC_ls%%",
        "BASH_FUNC_x\n%%",
        "SHELLOPTS",
    ],
)
def test_what_belongs_to_the_laptop_stays_there(name):
    environment, stayed = environment_of({name: "evil", "KEEP": "1"}, ALICE)
    assert "evil" not in environment.values() and environment["KEEP"] == "1"
    assert len(stayed) == 1 and "\n" not in stayed[0]


def test_the_accounts_variables_come_from_passwd():
    environment, stayed = environment_of({"HOME": "/Users/a", "USER": "root", "LOGNAME": "root", "SHELL": "x"}, ALICE)
    assert not stayed
    assert environment == {
        "PATH": "/usr/local/bin:/usr/bin:/bin",
        "HOME": "/home/alice",
        "USER": "alice",
        "LOGNAME": "alice",
        "SHELL": "/bin/bash",
    }


def test_a_path_that_was_asked_for_is_kept():
    assert environment_of({"PATH": "/opt/r/bin:/bin"}, ALICE)[0]["PATH"] == "/opt/r/bin:/bin"


@pytest.mark.parametrize(
    ("environment", "why"),
    [
        ({f"V{n}": "" for n in range(2001)}, "2001 variables"),
        ({"A": "x" * 300_000}, "environment has"),
        ({"A B": "1"}, "not the name"),
        ({"A": "x\0y"}, "NUL"),
    ],
)
def test_an_environment_that_cannot_work_is_refused(environment, why):
    with pytest.raises(RequestError, match=why):
        planned(environment=environment)


@pytest.mark.parametrize(
    ("given", "directory", "output", "error"),
    [
        ({}, "/home/alice", "/home/alice/slurm-%j.out", "/home/alice/slurm-%j.out"),
        ({"array": "0-3"}, "/home/alice", "/home/alice/slurm-%A_%a.out", "/home/alice/slurm-%A_%a.out"),
        ({"working_directory": "runs/1"}, "/home/alice/runs/1", "/home/alice/runs/1/slurm-%j.out", None),
        ({"working_directory": "/data/x/"}, "/data/x", "/data/x/slurm-%j.out", None),
        ({"output": "o-%x.txt"}, "/home/alice", "/home/alice/o-%x.txt", "/home/alice/o-%x.txt"),
        ({"output": "/o", "error": "e"}, "/home/alice", "/o", "/home/alice/e"),
        ({"output": "../../etc//passwd"}, "/home/alice", "/etc/passwd", None),
        ({"working_directory": "//data"}, "/data", "/data/slurm-%j.out", None),
    ],
)
def test_paths_are_absolute_and_known(given, directory, output, error):
    plan = planned(**given)
    assert (plan.working_directory, plan.output) == (directory, output)
    assert error is None or plan.error == error
    assert (plan.spec.working_directory, plan.spec.output) == (directory, output)
    assert plan.spec.error == (plan.error if "error" in given else None), "one file is opened once"


@pytest.mark.parametrize("field", ["working_directory", "output", "error", "name", "comment"])
@pytest.mark.parametrize("text", ["a\nb", "a\0b", "a\rb", "a\x7fb"])
def test_control_characters_are_refused(field, text):
    with pytest.raises(RequestError, match="control character"):
        planned(**{field: text})


@pytest.mark.parametrize("script", ["hostname\n", "", "#!/bin/sh\r\nls\r\n", "#!/bin/sh\nx\0\n", "#!\n"])
def test_a_script_that_would_fail_on_the_node_is_refused_here(script):
    with pytest.raises(RequestError):
        planned(script=script)


def test_a_huge_script_is_413():
    with pytest.raises(RequestError) as caught:
        planned(script=SCRIPT + "#" * 4_000_000)
    assert (caught.value.status, caught.value.code) == (413, "script-too-large")


def test_our_comment_comes_first_and_the_users_follows():
    assert planned(comment="my run").spec.comment == "hipercow-slurm:00 request=1 my run"
    assert planned(comment="x" * 800).spec.comment.endswith("x" * 800), "the longest comment must still fit"


def test_what_would_surprise_is_said():
    plan = planned(script="#!/bin/bash\n#SBATCH --time=5\n", environment={"LD_PRELOAD": "x"})
    assert len(plan.warnings) == 2
    assert "LD_PRELOAD" in plan.warnings[0] and "#SBATCH" in plan.warnings[1]
    assert planned().warnings == ()
