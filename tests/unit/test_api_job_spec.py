"""What a laptop sends becomes what Slurm is asked for: absolute paths, a clean environment, warnings."""

import pytest

from hipercow_slurm.api.accounts import Account
from hipercow_slurm.api.config import Jobs
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
    plan = planned(environment={"LD_PRELOAD": "x"})
    assert len(plan.warnings) == 1 and "LD_PRELOAD" in plan.warnings[0]
    assert planned().warnings == ()


DIRECTED = """#!/bin/bash
#SBATCH -J directed --time=1:00:00 -n4
#SBATCH --mem=2G --gres=gpu:1 --no-requeue --exclusive=user
# a remark
#SBATCH --begin=2030-01-31T20:00:00Z --export=A=1,B,C=3
#SBATCH --output=out-%j.txt
hostname
#SBATCH --time=5
"""


@pytest.mark.parametrize("begin", ["9999-12-31T23:59:59-14:00", "0001-01-01T00:00:00+14:00", "now+99999weeks"])
@pytest.mark.parametrize("how", ["field", "line"])
def test_a_begin_time_that_cannot_be_counted_is_refused(begin, how):
    """Would have caught: a 500, as Python's OverflowError is no ValueError."""
    with pytest.raises(RequestError, match="begin"):
        if how == "field":
            planned(begin_time=begin)
        else:
            planned(script=f"#!/bin/sh\n#SBATCH --begin={begin}\n")


def test_directives_are_honoured_up_to_the_first_command_and_the_request_wins():
    spec = planned(script=DIRECTED, tasks=2, environment={"B": "b", "C": "request"}).spec
    assert (spec.name, spec.time_limit_min, spec.tasks, spec.memory_mb) == ("directed", 60, 2, 2048)
    assert (spec.gres, spec.requeue, spec.exclusive) == ("gpu:1", False, "user")
    assert spec.begin_time == 1896120000
    assert {key: spec.environment[key] for key in "ABC"} == {"A": "1", "B": "b", "C": "request"}
    assert spec.output == "/home/alice/out-%j.txt"


def test_all_means_all_of_the_requests_environment():
    """Scripts say it because it is sbatch's default; nothing of any machine's environment comes with it."""
    spec = planned(script="#!/bin/sh\n#SBATCH --export=ALL,A=1 --input=in\n", environment={"B": "b"}).spec
    assert (spec.environment["A"], spec.environment["B"], spec.input) == ("1", "b", "/home/alice/in")


def test_directives_can_be_ignored():
    spec = planned(script=DIRECTED, ignore_directives=True, time_limit_min=7).spec
    assert (spec.name, spec.tasks, spec.gres, spec.time_limit_min) == (None, None, None, 7)


@pytest.mark.parametrize(
    ("line", "code", "words"),
    [
        ("--wibble=1", "bad-directive", "line 2 of the script, #SBATCH --wibble=1: no such option here"),
        ("--time=x", "bad-directive", "is not a time"),
        ("--ntasks-per-node=70000", "bad-directive", "tasks_per_node"),
        ("--export=UNSET", "bad-export", "UNSET is not set"),
        ("-n", "bad-directive", "needs an argument"),
        ("hetjob", "bad-directive", "heterogeneous"),
        ("--mem=1G --mem-per-cpu=1G", "bad-request", "exclude each other"),
    ],
)
def test_a_directive_that_cannot_be_honoured_is_an_error(line, code, words):
    with pytest.raises(RequestError) as caught:
        planned(script=f"#!/bin/bash\n#SBATCH {line}\n")
    assert caught.value.code == code and words in caught.value.message, caught.value


def test_the_site_says_which_variables_travel():
    plan = plan_with(Jobs(environment=("R_*", "OMP_NUM_THREADS")), R_LIBS="/r", HOMEBREW="x", KRB5CCNAME="evil")
    assert plan.spec.environment["R_LIBS"] == "/r"
    assert not {"HOMEBREW", "KRB5CCNAME"} & set(plan.spec.environment)
    assert "HOMEBREW, KRB5CCNAME" in plan.warnings[0]
    assert "KRB5CCNAME" not in plan_with(Jobs(environment=("*", "KRB5CCNAME")), KRB5CCNAME="x").spec.environment


def plan_with(allowed, **environment):
    return plan(JobBody(script=SCRIPT, environment=environment), ALICE, comment="c", allowed=allowed)


@pytest.mark.parametrize(
    ("given", "asked"),
    [
        ({"nodes": "2-4"}, {"nodes": 2, "nodes_at_most": 4}),
        ({"nodes": "2-4", "tasks": 1}, {"nodes": 1, "nodes_at_most": None}),
        ({"nodes": "1-3", "tasks": 2}, {"nodes": 1, "nodes_at_most": 2}),
        ({"nodes": "1-2", "tasks_per_node": 2}, {"tasks": None}),
        ({"gpus": "a100:1,2", "tasks_per_gpu": 2}, {"tasks": 6}),
        ({"gpus": "a100", "tasks_per_gpu": 2}, {"tasks": None}),
        ({"hint": "multithread"}, {"tasks_per_core": 65535, "threads_per_core": None}),
        ({"hint": "memory_bound"}, {"cores_per_socket": 1, "threads_per_core": 1}),
        ({"hint": "nomultithread", "threads_per_core": 2}, {"hint": None, "threads_per_core": 2}),
        ({"switches": "2@1:30:00"}, {"switches": 2, "switches_wait_s": 5400}),
        ({"deadline": "2030-01-31T20:00:00Z"}, {"deadline": 1896120000}),
    ],
)
def test_numbers_fit_each_other_as_sbatch_makes_them_fit(given, asked):
    """sbatch itself is the judge in tests/e2e/test_as_sbatch.py."""
    spec = planned(**given).spec
    assert {key: getattr(spec, key) for key in asked} == asked


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"switches": "x@1"}, "switches 'x@1' is not of the form"),
        ({"switches": "1@soon"}, "not a time"),
        ({"deadline": "never"}, "deadline: 'never' is not a moment"),
        ({"nodes": "3-2"}, "runs backwards"),
        ({"nodes": "0-2"}, "nodes is 0"),
    ],
)
def test_what_does_not_fit_is_said(given, words):
    with pytest.raises(RequestError) as caught:
        planned(**given)
    assert words in caught.value.message


def test_a_script_that_wants_to_be_waited_for_is_told_that_nobody_does():
    """Would have caught: 400 for a script with ``#SBATCH -W``, which sbatch takes."""
    found = planned(script="#!/bin/sh\n#SBATCH -WQ --parsable\n")
    assert found.warnings == ("nothing here waits for the job's end, as the script's #SBATCH --wait asks for",)
