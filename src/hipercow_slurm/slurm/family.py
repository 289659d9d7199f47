"""What all versions of slurmrestd's API have in common: paths, and what an answer means once it is bare. No I/O."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

from hipercow_slurm.errors import Error
from hipercow_slurm.slurm import answers, cluster, jobs
from hipercow_slurm.slurm.answers import Answer
from hipercow_slurm.slurm.bare import RawBody, refusals_of
from hipercow_slurm.slurm.model import Job, JobChange, JobSpec, Node, Partition, Submitted

# Not at once: slurmd has just revoked the requeued job's credential, and kills what starts again in the same second
# ("Job credential revoked"). Slurm's own delay for the same reason is two minutes.
SOON_S = 5


class Family(ABC):
    """One API version: values to its JSON and back.

    Attributes:
        version: as it stands in the paths, ``v0.0.42``.
        deletes_anothers: DELETE of another user's job is safe to send (it is refused).
    """

    deletes_anothers: ClassVar[bool] = True

    def __init__(self, version: str) -> None:
        self.version = version

    @abstractmethod
    def submit_body(self, spec: JobSpec, localname: str) -> bytes:
        """The JSON of a submission that ``check.check`` has let through.

        Raises:
            RequestError: slurmrestd of this version has no words for something in it.
        """

    @abstractmethod
    def update_body(self, change: JobChange) -> bytes:
        """The JSON of a change, for POST to ``job_path``. ``hold`` false really releases (measured)."""

    @abstractmethod
    def body_of(self, answer: Answer) -> RawBody:
        """An answer in the bare form.

        Raises:
            InternalError: it cannot be read; its code and hint say what an operator can do.
        """

    def ping_path(self) -> str:
        """Of GET something cheap that slurmctld itself must answer, and only to a good token."""
        return f"/slurm/{self.version}/ping"

    def submit_path(self) -> str:
        """Of POST ``submit_body``."""
        return f"/slurm/{self.version}/job/submit"

    def job_path(self, job_id: int) -> str:
        """Of GET and DELETE of one job."""
        return f"/slurm/{self.version}/job/{job_id}"

    def jobs_path(self) -> str:
        """Of GET all jobs."""
        return f"/slurm/{self.version}/jobs"

    def signal_path(self, job_id: int, signal: str) -> str:
        """Of DELETE to send a signal."""
        return f"{self.job_path(job_id)}?signal={signal}"

    def partitions_path(self) -> str:
        """Of GET all partitions that the user may see."""
        return f"/slurm/{self.version}/partitions"

    def nodes_path(self) -> str:
        """Of GET all nodes."""
        return f"/slurm/{self.version}/nodes"

    def read_submitted(self, answer: Answer) -> Submitted:
        """The new job.

        Raises:
            Error: refused; ``submit-unknown`` whenever it is not certain that there is no job.
        """
        try:
            body = self.body_of(answer)
        except Error as error:
            if answer.status == 200:
                raise answers.submit_unknown(error.message) from error
            raise
        if body.job_id:
            message = " ".join((body.job_submit_user_msg or "").split())
            notes = [answers.describe([refusal]) for refusal in refusals_of(body)] + body.notes
            return Submitted(body.job_id, "; ".join([message, *notes] if message else notes) or None)
        refusals = refusals_of(body)
        if refusals:
            raise answers.submit_error(refusals, answer)
        raise answers.submit_unknown(f"HTTP {answer.status} without a job id")

    def read_job(self, answer: Answer, job_id: int, localname: str) -> Job:
        """The job asked for, of all that slurmctld answers with (an array's id brings all its tasks).

        Raises:
            SchedulerError: ``no-such-job``: unknown, or not ``localname``'s.
            Error: any other refusal.
        """
        found = jobs.of(self._accepted(answer, job_id), localname)
        for job in found:
            if job.job_id == job_id:
                return job
        for job in found:
            if job.array_job_id == job_id:
                return job
        raise answers.no_such_job(job_id)

    def read_jobs(self, answer: Answer, localname: str) -> list[Job]:
        """``localname``'s own jobs, oldest first, whoever else's the answer holds.

        Raises:
            Error: refused or not understood.
        """
        return sorted(jobs.of(self._accepted(answer, None), localname), key=lambda job: job.job_id)

    def read_cancelled(self, answer: Answer, job_id: int) -> None:
        """Raise unless the job is over or ending.

        Raises:
            SchedulerError: ``no-such-job``: unknown, or another user's (Slurm tells these apart; we do not).
            Error: any other refusal.
        """
        self._accepted(answer, job_id, fine=answers.ALREADY_OVER)

    def read_updated(self, answer: Answer, job_id: int) -> None:
        """Raise unless the change was made.

        Raises:
            SchedulerError: ``no-such-job``, or ``change-refused`` with Slurm's words.
            Error: any other refusal.
        """
        self._updated(self.body_of(answer), answer, job_id)

    def _updated(self, body: RawBody, answer: Answer, job_id: int) -> None:
        refusals = refusals_of(body)
        if refusals:
            raise answers.change_error(refusals, answer, job_id)

    def read_signalled(self, answer: Answer, job_id: int) -> None:
        """Raise unless the signal is on its way.

        Raises:
            SchedulerError: ``no-such-job``, or ``change-refused``: the job does not run.
            Error: any other refusal.
        """
        refusals = refusals_of(self.body_of(answer))
        if refusals and refusals[0].number in answers.UNKNOWN_JOB:
            raise answers.no_such_job(job_id)
        if refusals:
            raise answers.change_error(refusals, answer, job_id)

    def read_ping(self, answer: Answer) -> None:
        """Raise unless a controller is up.

        Raises:
            Error: refused, or ``scheduler-unreachable``.
        """
        pings = self._accepted(answer, None).pings
        if not any(ping.ping == "UP" for ping in pings):
            raise answers.unreachable(", ".join(f"{ping.hostname} is {ping.ping}" for ping in pings) or "none")

    def read_partitions(self, answer: Answer) -> list[Partition]:
        """All partitions in slurmctld's order.

        Raises:
            Error: refused or not understood.
        """
        return [cluster.partition(raw) for raw in self._accepted(answer, None).partitions]

    def read_nodes(self, answer: Answer) -> list[Node]:
        """All nodes in slurmctld's order.

        Raises:
            Error: refused or not understood.
        """
        return [cluster.node(raw) for raw in self._accepted(answer, None).nodes]

    def _accepted(self, answer: Answer, job_id: int | None, *, fine: frozenset[int] = frozenset()) -> RawBody:
        body = self.body_of(answer)
        refusals = refusals_of(body)
        if refusals and refusals[0].number not in fine:
            if job_id is not None and refusals[0].number in answers.UNKNOWN_JOB:
                raise answers.no_such_job(job_id)
            raise answers.error_for(refusals, answer)
        if answer.status != 200 and not refusals:
            raise answers.unexplained(answer)
        return body
