"""The audit log: one line per decision, each chained to the one before, so that a change shows.

    log = AuditLog(path, "auksd", key=read_key(key_file))
    await log.note(verb="get", result="ok", who="host/c1@R", peer="10.0.0.7", uid=5001, request_id="...")

What it proves. Without a key: any change that does not rebuild the rest of the file. With a key: any change by
someone who does not have it. Lines cut off the end are noticed only against a hash kept elsewhere
(``audit verify --last``). Rotate by rename and HUP (``reopen``); logrotate's copytruncate breaks the chain.
"""

from hipercow_slurm.audit.chain import read_key
from hipercow_slurm.audit.log import AuditLog
from hipercow_slurm.audit.verify import Report, verify

__all__ = ["AuditLog", "Report", "read_key", "verify"]
