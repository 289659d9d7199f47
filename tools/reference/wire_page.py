"""The AUKS wire: message numbers and bodies, as the message classes have them, after the wire's own README."""

from __future__ import annotations

import dataclasses
import inspect
import re
from pathlib import Path

from hipercow_slurm.wire import messages, records

README = Path(messages.__file__).with_name("README.md")
# How a field's type looks in bytes.
_FORMS = {
    "bytes": "i32 length, then the KRB-CRED",
    "int": "u32",
    "Record": "a record",
    "tuple[Record, ...]": "i32 count, then so many records",
}


def page() -> str:
    """The page."""
    conversation = README.read_text().split("## A connection\n")[1].split("\nStates of a session")[0].strip()
    record = [f"| `{field.name}` | {field.type} |" for field in dataclasses.fields(records.Record)]
    return "\n\n".join(
        [
            "# The wire",
            "What auksd and its clients say to each other: AUKS' own protocol, byte for byte, over TCP port 12345. "
            f"Numbers are big-endian; times and uids are unsigned. A KRB-CRED is at most {records.MAX_CRED} bytes, a "
            f"principal {records.MAX_PRINCIPAL} characters. Decisions and traps: `src/hipercow_slurm/wire/README.md`.",
            "## A connection",
            conversation,
            "## Requests",
            _table(messages.REQUESTS),
            "## Replies",
            _table(messages.REPLIES),
            "## A record",
            _paragraph(records.Record),
            "\n".join(["| value | type in Python |", "|---|---|", *record]),
        ]
    )


def _table(kinds: dict[int, type]) -> str:
    lines = ["| number | message | body | |", "|---|---|---|---|"]
    for number, kind in sorted(kinds.items()):
        fields = [field for field in dataclasses.fields(kind) if field.name != "TYPE"]
        body = "; ".join(f"`{field.name}`: {_FORMS.get(str(field.type), field.type)}" for field in fields) or "none"
        lines.append(
            f"| {number} | {kind.__name__} | {body} | {_paragraph(kind) if kind.__dict__.get('__doc__') else ''} |"
        )
    return "\n".join(lines)


def _paragraph(kind: type) -> str:
    text = inspect.cleandoc(kind.__doc__ or "").split("\n\n")[0].replace("\n", " ").replace("``", "`")
    text = re.sub(r" \(notes [^)]*\)", "", text)
    return "" if text.startswith(f"{kind.__name__}(") else text
