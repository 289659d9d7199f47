"""hipercow-slurm: submit Slurm jobs from anywhere, with a Kerberos ticket that lives as long as the job.

    from hipercow_slurm import Client

    with Client("https://head.example.org:8443") as client:
        job = client.submit("echo hi")
        job.wait()
        print(job.output())

``AsyncClient`` is the same with ``async with`` and ``await``. Both use the session that ``hipercow-slurm login`` saved.
Every error is one of ``hipercow_slurm.errors``, in families by whose turn it is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hipercow_slurm.client.aio.client import AsyncClient
    from hipercow_slurm.client.aio.job import AsyncJob
    from hipercow_slurm.client.models import JobInfo
    from hipercow_slurm.client.options import JobOptions, JobSpec
    from hipercow_slurm.client.sync.client import Client
    from hipercow_slurm.client.sync.job import Job
    from hipercow_slurm.errors import Error

__version__ = "0.1.0"
__all__ = ["AsyncClient", "AsyncJob", "Client", "Error", "Job", "JobInfo", "JobOptions", "JobSpec", "__version__"]

# Imported when they are first named: the servers and `--help` need none of them.
_HOMES = {
    "AsyncClient": "client.aio.client",
    "AsyncJob": "client.aio.job",
    "Client": "client.sync.client",
    "Error": "errors",
    "Job": "client.sync.job",
    "JobInfo": "client.models",
    "JobOptions": "client.options",
    "JobSpec": "client.options",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
