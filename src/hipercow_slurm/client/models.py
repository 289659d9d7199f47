"""What the API answers, as frozen values.

Unknown fields are kept in ``raw`` and otherwise ignored; a field of the wrong type is a ProtocolError, so that no
caller meets a text where it expects a number. Times are timezone-aware ``datetime``, None where the API
says null.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, TypeVar

from hipercow_slurm.errors import ProtocolError

POLL_S = 2.0
OUTAGE_S = 900.0
# A node writes its last bytes to the share when the file is closed, which Slurm does not wait for.
LINGER_S = 2.0

T = TypeVar("T")
Json = Mapping[str, Any]

# States in which Slurm has finished with a job for good (slurm.h, job_states; base state names).
ENDED = frozenset(
    "COMPLETED FAILED CANCELLED TIMEOUT NODE_FAIL OUT_OF_MEMORY BOOT_FAIL DEADLINE PREEMPTED REVOKED UNKNOWN".split()  # noqa: SIM905
)


def get(document: Json, key: str, kind: type[T]) -> T:
    """``document[key]``, which must be there and be a ``kind``."""
    value = optional(document, key, kind)
    if value is None:
        raise ProtocolError(f"the server's answer has no {key!r}", code="bad-answer")
    return value


def optional(document: Json, key: str, kind: type[T]) -> T | None:
    """``document[key]`` if it is there and not null; it must be a ``kind`` then."""
    value = document.get(key)
    # bool is an int to Python, and not to anyone else.
    if value is None or (isinstance(value, kind) and (kind is bool or not isinstance(value, bool))):
        return value
    raise ProtocolError(
        f"the server's answer has a {type(value).__name__} as {key!r} instead of a {kind.__name__}",
        code="bad-answer",
    )


def moment(document: Json, key: str) -> datetime | None:
    """An RFC 3339 time."""
    text = optional(document, key, str)
    if text is None:
        return None
    try:
        value = datetime.fromisoformat(text)
        if value.tzinfo is None:
            raise ValueError("no time zone")
    except ValueError as error:
        raise ProtocolError(f"the server's answer has the time {text!r} as {key!r}", code="bad-answer") from error
    return value


def objects(document: Json, key: str) -> list[Json]:
    """A list of JSON objects."""
    values = get(document, key, list)
    if not all(isinstance(value, dict) for value in values):
        raise ProtocolError(f"the server's answer has something else than objects in {key!r}", code="bad-answer")
    return values


@dataclass(frozen=True, slots=True)
class Validity:
    """How long a ticket is good: until when as it is, and until when it can be renewed."""

    valid_until: datetime | None
    renewable_until: datetime | None

    @classmethod
    def parse(cls, document: Json) -> Validity:
        return cls(moment(document, "valid_until"), moment(document, "renewable_until"))


@dataclass(frozen=True, slots=True)
class Credential:
    """What the credential cache holds for a job: ok, expiring, expired, missing or unknown.

    ``covers_job`` is False if the job can outlive it, None if no one can tell; ``sentence`` says it to a person.
    """

    state: str
    validity: Validity
    covers_job: bool | None
    sentence: str

    @classmethod
    def parse(cls, document: Json) -> Credential:
        return cls(
            optional(document, "state", str) or "unknown",
            Validity.parse(document),
            optional(document, "covers_job", bool),
            optional(document, "sentence", str) or "",
        )


@dataclass(frozen=True, slots=True)
class JobInfo:
    """A job as the API shows it; ``raw`` is the whole JSON object."""

    job_id: int
    name: str
    partition: str
    state: str
    reason: str | None
    exit_code: int | None
    signal: int | None
    nodes: tuple[str, ...]
    node_count: int | None
    submit_time: datetime | None
    start_time: datetime | None
    end_time: datetime | None
    time_limit_min: int | None
    credential: Credential
    warnings: tuple[str, ...]
    raw: Json = field(repr=False, compare=False)

    @classmethod
    def parse(cls, document: Json) -> JobInfo:
        """From the API's JSON. Raises ProtocolError "bad-answer"."""
        nodes = optional(document, "nodes", list) or []
        return cls(
            job_id=get(document, "job_id", int),
            name=optional(document, "name", str) or "",
            partition=optional(document, "partition", str) or "",
            state=get(document, "state", str),
            reason=optional(document, "reason", str),
            exit_code=optional(document, "exit_code", int),
            signal=optional(document, "signal", int),
            nodes=tuple(map(str, nodes)),
            node_count=optional(document, "node_count", int),
            submit_time=moment(document, "submit_time"),
            start_time=moment(document, "start_time"),
            end_time=moment(document, "end_time"),
            time_limit_min=optional(document, "time_limit_min", int),
            credential=Credential.parse(optional(document, "credential", dict) or {}),
            warnings=tuple(map(str, optional(document, "warnings", list) or [])),
            raw=document,
        )

    @property
    def ended(self) -> bool:
        """True when nothing more will happen to the job."""
        return self.state in ENDED

    @property
    def exit_status(self) -> int:
        """The ended job's status as a shell would have it: its own, 128 + signal, or 1 for an end without either."""
        if self.signal:
            return 128 + self.signal
        if self.exit_code:
            return self.exit_code & 0xFF or 1
        return 0 if self.state == "COMPLETED" else 1


@dataclass(frozen=True, slots=True)
class Session:
    """An answer to a login. ``token`` is the secret; it is not part of ``repr``, and ``raw`` does not have it."""

    session_id: str
    token: str = field(repr=False)
    principal: str
    localname: str
    expires_at: datetime | None
    ticket: Validity
    raw: Json = field(repr=False, compare=False)

    @classmethod
    def parse(cls, document: Json) -> Session:
        """From the API's JSON. Raises ProtocolError "bad-answer"."""
        return cls(
            session_id=get(document, "session_id", str),
            token=get(document, "token", str),
            principal=get(document, "principal", str),
            localname=get(document, "localname", str),
            expires_at=moment(document, "expires_at"),
            ticket=Validity.parse(optional(document, "ticket", dict) or {}),
            raw={key: value for key, value in document.items() if key != "token"},
        )


@dataclass(frozen=True, slots=True)
class Account:
    """Who a session belongs to; ``home`` is the account's home directory on the cluster."""

    principal: str
    localname: str
    uid: int
    home: str
    raw: Json = field(repr=False, compare=False)

    @classmethod
    def parse(cls, document: Json) -> Account:
        """From the API's JSON. Raises ProtocolError "bad-answer"."""
        return cls(
            get(document, "principal", str),
            get(document, "localname", str),
            get(document, "uid", int),
            get(document, "home", str),
            document,
        )


@dataclass(frozen=True, slots=True)
class Ticket:
    """How long the user's tickets are good: the session's own, and the one the cache holds for jobs.

    Attributes:
        cache: None: there is none, or the cache does not answer (``cache_silent``).
    """

    principal: str
    session: Validity
    cache: Validity | None
    raw: Json = field(repr=False, compare=False)
    cache_silent: bool = False

    @classmethod
    def parse(cls, document: Json) -> Ticket:
        """From the API's JSON. Raises ProtocolError "bad-answer"."""
        cache = optional(document, "cache", dict)
        return cls(
            principal=get(document, "principal", str),
            session=Validity.parse(optional(document, "session", dict) or {}),
            cache=None if cache is None else Validity.parse(cache),
            raw=document,
            cache_silent=optional(document, "cache_silent", bool) or False,
        )


@dataclass(frozen=True, slots=True)
class SessionInfo:
    """One of the user's sessions; ``current``: the one that asked."""

    session_id: str
    created_at: datetime | None
    expires_at: datetime | None
    current: bool
    address: str
    raw: Json = field(repr=False, compare=False)

    @classmethod
    def parse(cls, document: Json) -> SessionInfo:
        """From the API's JSON. Raises ProtocolError "bad-answer"."""
        return cls(
            session_id=get(document, "session_id", str),
            created_at=moment(document, "created_at"),
            expires_at=moment(document, "expires_at"),
            current=bool(optional(document, "current", bool)),
            address=optional(document, "address", str) or "",
            raw=document,
        )


@dataclass(frozen=True, slots=True)
class Entry:
    """A name in a directory on the cluster; ``type``: file, directory, symlink, ...; ``mode`` as ``0640``."""

    name: str
    type: str
    size: int | None
    mode: str | None
    modified_at: datetime | None
    raw: Json = field(repr=False, compare=False)

    @classmethod
    def parse(cls, document: Json) -> Entry:
        """From the API's JSON. Raises ProtocolError "bad-answer": also for a name that leads out of its directory."""
        name = get(document, "name", str)
        if name in ("", ".", "..") or "/" in name:
            raise ProtocolError(f"the server's answer has the impossible file name {name!r}", code="bad-answer")
        return cls(
            name=name,
            type=optional(document, "type", str) or "unknown",
            size=optional(document, "size", int),
            mode=optional(document, "mode", str),
            modified_at=moment(document, "modified_at"),
            raw=document,
        )


@dataclass(frozen=True, slots=True)
class Output:
    """A piece of a job's output file.

    Attributes:
        data: bytes from ``offset`` on.
        size: the file's size as the server knows it, None if it did not say.
        state: the job's state when the server answered, None if it did not say.
    """

    offset: int
    data: bytes = field(repr=False)
    size: int | None
    state: str | None
