"""Configuration files: every key of the structs that read them, with type, default and what their docstrings say."""

from __future__ import annotations

import inspect
import re
import types
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import msgspec

from hipercow_slurm.agent import config as agent
from hipercow_slurm.api import config as api
from hipercow_slurm.auksd import config as auksd
from hipercow_slurm.client import profile
from hipercow_slurm.signer import config as signer

FILES = {
    "api.toml": ("the HTTP API", api.Config),
    "signer.toml": ("the signer", signer.File),
    "auksd.toml": (
        "the credential cache; an `auks.conf` works in its place, see [auksd-config](auksd-config.md)",
        auksd.Config,
    ),
    "agent.toml": ("compute nodes' agent, and `[cache]` for login nodes", agent.File),
}
_WORDS = {str: "text", int: "whole number", float: "number", bool: "`true` or `false`"}


def page() -> str:
    """The page."""
    parts = [
        "# Configuration",
        "All in `/etc/hipercow-slurm`, in TOML; the Debian packages bring them with comments. A key that is not here "
        "is an error, and so is a value of another type: the program says file, line and key, and does not start. "
        "Units stand in the names: `_s` is seconds. Keys without a default must be given.",
    ]
    for name, (whose, kind) in FILES.items():
        parts.append(f"## {name}\n\nFor {whose}.")
        parts += _tables(kind)
    keys = ", ".join(f"`{key}`" for key in profile.KEYS)
    places = inspect.cleandoc(profile.__doc__ or "").split("Rule 1")[0]
    parts.append(
        f"## client.toml\n\nFor users' commands: {keys}. `/etc/hipercow-slurm/client.toml` is the site's; each user's "
        f"own `config.toml` goes before it.\n\n```text\n{places.strip()}\n```"
    )
    return "\n\n".join(parts)


def _tables(kind: type[msgspec.Struct]) -> list[str]:
    """A section for each table of a file; ``kind``'s fields are the tables."""
    parts, hints = [], get_type_hints(kind, include_extras=True)
    for field in msgspec.structs.fields(kind):
        struct, many = _struct_of(hints[field.name])
        if struct is None:
            continue
        header = f"[[{field.name}]]" if many else f"[{field.name}]"
        parts.append(f"### `{header}`" + _summary(struct))
        parts.append(_rows(struct))
        for key, hint in get_type_hints(struct, include_extras=True).items():
            below, _ = _struct_of(hint)
            if below is not None:
                parts.append(f"Each of `{key}`:{_summary(below)}\n\n{_rows(below)}")
    return parts


def _struct_of(hint: Any) -> tuple[type[msgspec.Struct] | None, bool]:
    """The struct in a hint, and whether there may be many of it."""
    if isinstance(hint, type) and issubclass(hint, msgspec.Struct):
        return hint, False
    many = get_origin(hint) in (list, tuple)
    for part in get_args(hint):
        struct, deeper = _struct_of(part)
        if struct is not None:
            return struct, many or deeper
    return None, many


def _summary(struct: type) -> str:
    """The docstring's first paragraph, if it says more than the table's name."""
    first = inspect.cleandoc(struct.__doc__ or "").split("\n\n")[0].replace("\n", " ")
    said = re.sub(r"^(Section )?``\[+[a-z]+\]+``[.:;]?\s*", "", first)
    said = re.sub(r"^(One table )?``\[\[[a-z]+\]\]``; ", "", said)
    said = "" if "see ``" in said or said.startswith("see ") else said
    return f"\n\n{_marked(said[:1].upper() + said[1:])}" if said else ""


def _marked(text: str) -> str:
    """reStructuredText's double backquotes as Markdown's single ones."""
    return text.replace("``", "`")


def _rows(struct: type[msgspec.Struct]) -> str:
    said, hints = _attributes(struct), get_type_hints(struct, include_extras=True)
    lines = ["| key | type | default | |", "|---|---|---|---|"]
    for field in msgspec.structs.fields(struct):
        cells = (f"`{field.name}`", _type(hints[field.name]), _default(field), said.get(field.name, ""))
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines)


def _default(field: msgspec.structs.FieldInfo) -> str:
    value = field.default
    if value is msgspec.NODEFAULT:
        if field.default_factory is msgspec.NODEFAULT:
            return "**must be given**"
        value = field.default_factory()
    if value is None:
        return "none"
    if isinstance(value, msgspec.Struct):
        return ""
    shown = msgspec.json.encode(value).decode().replace(",", ", ")
    return f"`{shown}`"


def _type(hint: Any) -> str:
    origin, parts = get_origin(hint), get_args(hint)
    if hint in _WORDS:
        return _WORDS[hint]
    if origin is Annotated:
        return _type(parts[0]) + "".join(_bounds(meta) for meta in parts[1:])
    if origin is Literal:
        return ", ".join(f'`"{part}"`' for part in parts)
    if origin in (Union, types.UnionType):
        return _type(next(part for part in parts if part is not type(None)))
    if origin in (list, tuple):
        return "list of tables" if _struct_of(hint)[0] else f"list of {_type(parts[0])}"
    if origin is dict:
        return f"table of {_type(parts[1])}"
    return "table" if isinstance(hint, type) else str(hint)


def _bounds(meta: Any) -> str:
    signs = {"ge": "at least", "gt": "more than", "le": "at most", "lt": "less than"}
    said = [f"{word} {getattr(meta, name):g}" for name, word in signs.items() if getattr(meta, name, None) is not None]
    return f", {', '.join(said)}" if said else ""


def _attributes(struct: type) -> dict[str, str]:
    """Key -> what the ``Attributes:`` of the docstring say."""
    found: dict[str, str] = {}
    for base in reversed(struct.__mro__):
        _, _, text = inspect.cleandoc(base.__doc__ or "").partition("Attributes:\n")
        for entry in re.split(r"\n(?=    \w)", "\n" + text.split("\n\n")[0]):
            names, colon, words = entry.strip().partition(":")
            if colon:
                for name in names.split(","):
                    found[name.strip()] = _marked(re.sub(r"\s+", " ", words).strip())
    # Two keys in one line of the docstring: "a, b: ...", or "a: ... . b: ...".
    for words in list(found.values()):
        for name, more in re.findall(r"\. (\w+): ([^.]*)", words):
            if name in struct.__struct_fields__:
                found.setdefault(name, more)
    return found
