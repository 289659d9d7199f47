"""What travels over HTTP: requests checked strictly on the way in, answers with a fixed shape on the way out.

An unknown key is an error, so that a mistyped option never silently does nothing. Times are RFC 3339 UTC strings
outside and whole seconds inside.
"""

from __future__ import annotations

import datetime
import functools
from typing import Annotated, Literal, TypeVar

import msgspec

from hipercow_slurm.errors import RequestError
from hipercow_slurm.values import TicketTimes

T = TypeVar("T")
_YEAR_10000 = 253402300800
Name = Annotated[str, msgspec.Meta(min_length=1, max_length=256)]
PathText = Annotated[str, msgspec.Meta(min_length=1, max_length=4096)]
Count = Annotated[int, msgspec.Meta(ge=1, le=2**31 - 2)]
Counted = Annotated[int, msgspec.Meta(ge=0, le=2**31 - 2)]
Small = Annotated[int, msgspec.Meta(ge=1, le=65533)]  # 16 bits in Slurm
Moment = Annotated[str, msgspec.Meta(min_length=1, max_length=64)]


class Body(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A request body."""


class LoginBody(Body, frozen=True):
    """``POST /v1/sessions``. The secrets stay raw JSON: a Python string could never be wiped.

    ``answers``, strings, are for what the KDC asks beside the password: the ``prompts`` of a 409 ``answers-wanted``.
    """

    username: Annotated[str, msgspec.Meta(max_length=256)]
    password: msgspec.Raw
    answers: Annotated[list[msgspec.Raw], msgspec.Meta(max_length=8)] = []

    def __repr__(self) -> str:
        return f"<LoginBody {self.username!r}>"


class ConversationBody(Body, frozen=True):
    """``POST /v1/conversations``: the new password of a login that was answered with 409 and this conversation."""

    conversation: Annotated[str, msgspec.Meta(max_length=64)]
    new_password: msgspec.Raw

    def __repr__(self) -> str:
        return "<ConversationBody>"


class JobBody(Body, frozen=True, omit_defaults=True):
    """One job. What is left out is taken from ``#SBATCH`` lines of the script, unless ``ignore_directives``.

    Paths may be relative: to the home directory, or to ``working_directory``. ``begin_time`` and
    ``deadline`` are RFC 3339, or one of sbatch's forms in the service's time zone. ``exclusive`` is true, ``user`` or
    ``mcs``; ``nodes`` a number or ``MIN-MAX``.
    """

    script: str
    name: Name | None = None
    partition: Name | None = None
    account: Name | None = None
    qos: Name | None = None
    nodes: Count | Annotated[str, msgspec.Meta(pattern="^[0-9]{1,9}-[0-9]{1,9}$")] | None = None
    tasks: Count | None = None
    tasks_per_node: Small | None = None
    tasks_per_socket: Small | None = None
    tasks_per_core: Small | None = None
    tasks_per_gpu: Small | None = None
    cpus_per_task: Small | None = None
    cpus_per_gpu: Small | None = None
    minimum_cpus_per_node: Small | None = None
    sockets_per_node: Small | None = None
    cores_per_socket: Small | None = None
    threads_per_core: Small | None = None
    hint: Literal["compute_bound", "memory_bound", "multithread", "nomultithread"] | None = None
    distribution: Name | None = None
    overcommit: bool | None = None
    core_spec: Counted | None = None
    thread_spec: Counted | None = None
    cpu_freq: Name | None = None
    memory_mb: Counted | None = None
    memory_per_cpu_mb: Counted | None = None
    memory_per_gpu_mb: Counted | None = None
    tmp_mb: Counted | None = None
    gpus: Name | None = None
    gpus_per_node: Name | None = None
    gpus_per_task: Name | None = None
    gpus_per_socket: Name | None = None
    gpu_bind: Name | None = None
    gpu_freq: Name | None = None
    gres: Name | None = None
    gres_flags: Literal["disable-binding", "enforce-binding"] | None = None
    constraint: Name | None = None
    prefer: Name | None = None
    cluster_constraint: Name | None = None
    switches: Name | None = None
    nodelist: PathText | None = None
    exclude: PathText | None = None
    contiguous: bool | None = None
    spread_job: bool | None = None
    use_min_nodes: bool | None = None
    time_limit_min: Count | None = None
    minimum_time_min: Count | None = None
    begin_time: Moment | None = None
    deadline: Moment | None = None
    delay_boot_min: Counted | None = None
    dependency: PathText | None = None
    kill_on_invalid_dep: bool | None = None
    burst_buffer: Name | None = None
    licenses: Name | None = None
    reservation: Name | None = None
    requeue: bool | None = None
    exclusive: bool | Literal["user", "mcs"] | None = None
    oversubscribe: bool | None = None
    no_kill: bool | None = None
    wait_all_nodes: bool | None = None
    signal: Name | None = None
    open_mode: Literal["append", "truncate"] | None = None
    nice: Annotated[int, msgspec.Meta(ge=-(2**31) + 3, le=2**31 - 3)] | None = None
    priority: Count | None = None
    working_directory: PathText | None = None
    output: PathText | None = None
    error: PathText | None = None
    input: PathText | None = None
    mail_type: Name | None = None
    mail_user: Name | None = None
    wckey: Name | None = None
    mcs_label: Name | None = None
    profile: Name | None = None
    acctg_freq: Name | None = None
    get_user_env: bool | None = None
    environment: dict[str, str] = {}
    hold: bool | None = None
    array: Name | None = None
    comment: Annotated[str, msgspec.Meta(max_length=800)] | None = None
    ignore_directives: bool = False


class BulkBody(Body, frozen=True):
    """``POST /v1/jobs:bulk``. Each job is read by itself, so that a bad one has its own refusal."""

    jobs: list[msgspec.Raw]


class SignalBody(Body, frozen=True):
    """``POST /v1/jobs/{id}/signal``."""

    signal: Annotated[str, msgspec.Meta(min_length=1, max_length=20)]


class ChangeBody(Body, frozen=True):
    """``PATCH /v1/jobs/{id}``: at least one of them."""

    time_limit_min: Count | None = None
    nice: Annotated[int, msgspec.Meta(ge=-(2**31) + 3, le=2**31 - 3)] | None = None


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """A response body."""


class Times(Answer, frozen=True):
    """Until when a ticket is good, and until when it can be kept good by renewing (null: not at all)."""

    valid_until: str | None
    renewable_until: str | None

    @classmethod
    def of(cls, times: TicketTimes) -> Times:
        return cls(valid_until=rfc3339(times.endtime), renewable_until=rfc3339(times.renew_till))


class SessionCreated(Answer, frozen=True):
    """The only answer that ever holds the session token."""

    session_id: str
    token: str
    principal: str
    localname: str
    uid: int
    expires_at: str | None
    ticket: Times

    def __repr__(self) -> str:
        return f"<SessionCreated {self.session_id}>"


class Person(Answer, frozen=True):
    """Who a session belongs to; ``home``: the account's home directory, as jobs see it."""

    session_id: str
    principal: str
    localname: str
    uid: int
    home: str
    expires_at: str | None


class SessionRow(Answer, frozen=True):
    session_id: str
    created_at: str | None
    expires_at: str | None
    current: bool
    address: str


class SessionList(Answer, frozen=True):
    sessions: list[SessionRow]


class Credential(Answer, frozen=True):
    """How long a job's ticket lasts.

    Attributes:
        state: ok; expiring (it ends before the job can, or soon); expired; missing; unknown (the cache is silent).
        covers_job: can it be kept good until the job's latest end; null if that end or the ticket is unknown.
    """

    state: Literal["ok", "expiring", "expired", "missing", "unknown"]
    valid_until: str | None
    renewable_until: str | None
    covers_job: bool | None
    sentence: str


class JobAnswer(Answer, frozen=True, omit_defaults=True):
    """A job as its owner sees it; ``warnings`` only where it was just submitted.

    ``held_for_ticket`` is there, and true, for a job that waits for its owner's next login.
    """

    job_id: int
    name: str
    user: str
    partition: str
    state: str
    reason: str | None
    exit_code: int | None
    signal: int | None
    nodes: list[str]
    node_count: int | None
    submit_time: str | None
    start_time: str | None
    end_time: str | None
    time_limit_min: int | None
    working_directory: str
    output: str | None
    error: str | None
    credential: Credential
    array_job_id: int | None = None
    array_task_id: int | None = None
    held_for_ticket: bool = False
    warnings: list[str] = []


class JobList(Answer, frozen=True):
    """One page; ``next_cursor`` is null on the last."""

    jobs: list[JobAnswer]
    next_cursor: str | None = None


class BulkItem(Answer, frozen=True, omit_defaults=True):
    """What became of one of many: an HTTP status, and the job or the problem."""

    index: int
    status: int
    job_id: int | None = None
    job: JobAnswer | None = None
    problem: msgspec.Raw | None = None


class Bulk(Answer, frozen=True):
    results: list[BulkItem]


class Entry(Answer, frozen=True):
    """A name in a directory; null where the server could not say. ``type``: file, directory, symlink, ..."""

    name: str
    type: str
    size: int | None
    mode: str | None
    modified_at: str | None


class Directory(Answer, frozen=True):
    path: str
    entries: list[Entry]


class Written(Answer, frozen=True):
    path: str
    size: int


class DirectoryMade(Answer, frozen=True):
    """``created``: False for one that was there already."""

    path: str
    created: bool


class TicketAnswer(Answer, frozen=True, omit_defaults=True):
    """``cache_silent`` is there, and true, where ``cache`` is null because the cache does not answer."""

    principal: str
    localname: str
    uid: int
    session: Times
    cache: Times | None
    cache_silent: bool = False


@functools.lru_cache(1024)  # a ticket's times are told with each of its jobs
def rfc3339(seconds: int | None) -> str | None:
    """``2026-03-01T02:00:00Z``; None for "not known" and for 0, which Slurm and Kerberos use to say "none"."""
    if not seconds or not 0 < seconds < _YEAR_10000:
        return None
    return datetime.datetime.fromtimestamp(seconds, datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


class BodyError(RequestError):
    """400: the body is not JSON, or not this address's."""


def decode(body: bytes | bytearray, kind: type[T]) -> T:
    """Parse a JSON request body.

    Raises:
        BodyError: not JSON, not UTF-8, nested too deep, a wrong type, or an unknown key (which is named).
    """
    try:
        return msgspec.json.decode(body, type=kind, strict=True)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        why = str(error) if isinstance(error, msgspec.DecodeError) else "not a JSON text in UTF-8"
        raise BodyError(f"the request body is not what this address takes: {why[:300]}") from None
