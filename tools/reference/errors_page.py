"""Every error code: found where the code raises it, with its sentences and what to do next."""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import hipercow_slurm
from hipercow_slurm import errors
from hipercow_slurm.api import problems
from hipercow_slurm.krb5 import codes

SOURCE = Path(hipercow_slurm.__file__).parent
FAMILIES = {
    kind.__name__: kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, errors.Error)
}
NOT_OURS = {"testing"}  # folders of programs that no site runs
_SENTENCES = 3


@dataclass
class Entry:
    """What is known of one code."""

    statuses: set[int] = field(default_factory=set)
    exits: set[int] = field(default_factory=set)
    families: set[str] = field(default_factory=set)
    sentences: list[str] = field(default_factory=list)
    hints: list[str] = field(default_factory=list)

    def add(
        self, family: type[errors.Error] | None, status: int | None, sentence: str | None, hint: str | None
    ) -> None:
        """One more place that raises it."""
        if family is not None:
            self.families.add(family.__name__)
            self.exits.add(family.EXIT)
            self.statuses.add(status or family.HTTP)
        for text, known in ((sentence, self.sentences), (hint, self.hints)):
            if text and text not in known:
                known.append(text)


def page() -> str:
    """The page."""
    found = collect()
    parts = [
        "# Errors",
        "A refusal of the API is `application/problem+json` with `code`, `detail` (the sentence) and `hint` (the next "
        "step); the command line prints `error: SENTENCE [CODE]` and `hint: ...`, a daemon logs `code=` and `why=`. "
        "Codes are stable, sentences may change. `...` stands for names and numbers of the case.",
        "## Families: whose turn it is",
        _families(),
        "## Codes",
        "HTTP is the status where the API answers with it; exit the command line's status. Where a code has no next "
        "step of its own, that of its family holds.",
        _codes(found),
    ]
    return "\n\n".join(parts)


def _families() -> str:
    lines = ["| family | HTTP | exit | |", "|---|---|---|---|"]
    for name, kind in FAMILIES.items():
        if kind is not errors.Error:
            said = inspect.cleandoc(kind.__doc__ or "").split("\n")[0]
            lines.append(f"| {name} | {kind.HTTP} | {kind.EXIT} | {said} |")
    return "\n".join(lines)


def _codes(found: dict[str, Entry]) -> str:
    lines = ["| code | HTTP | exit | what it says | next step |", "|---|---|---|---|---|"]
    for code, entry in sorted(found.items()):
        numbers = (", ".join(map(str, sorted(values))) for values in (entry.statuses, entry.exits))
        said = " / ".join(entry.sentences[:_SENTENCES]) or "as libkrb5 or the peer says it"
        step = " / ".join(entry.hints[:_SENTENCES]) or _step_of_family(entry)
        cells = (f"`{code}`", *numbers, said, step)
        lines.append("| " + " | ".join(cell.replace("|", "\\|").replace("<", "&lt;") for cell in cells) + " |")
    return "\n".join(lines)


def _step_of_family(entry: Entry) -> str:
    """As the table at the top of the errors' own module has it."""
    turns = dict(re.findall(r"\+- (\w+) +(.+?) {2,}", inspect.cleandoc(errors.__doc__ or "")))
    return " / ".join(turns[name] for name in sorted(entry.families))


def collect() -> dict[str, Entry]:
    """Code -> what is known of it, from every call that names one, from the table of libkrb5, and the families' own."""
    found: dict[str, Entry] = {}
    for row in (*codes.ERRORS.values(), *codes.DEFAULTS.values()):
        found.setdefault(row.code, Entry()).add(row.family, row.status, row.sentence, row.hint)
    for status, (code, sentence) in problems._HTTP_CODES.items():
        found.setdefault(code, Entry()).add(errors.RequestError, status, sentence, None)
    for path in sorted(SOURCE.rglob("*.py")):
        if not NOT_OURS & set(path.relative_to(SOURCE).parts):
            for code, family, status, sentence, hint in _raised(ast.parse(path.read_text())):
                found.setdefault(code, Entry()).add(family, status, sentence, hint)
    return found


def _raised(tree: ast.Module) -> Iterator[tuple[str, type[errors.Error] | None, int | None, str | None, str | None]]:
    """Each call of an error's class in a module; its own subclasses count as what they derive from."""
    local = _subclasses(tree)
    texts = {
        target.id: _text(node.value)
        for node in tree.body
        if isinstance(node, ast.Assign)
        for target in node.targets
        if isinstance(target, ast.Name)
    }
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        name = getattr(node.func, "id", getattr(node.func, "attr", ""))
        family, default, http = local.get(name) or (FAMILIES.get(name), None, None)
        given = {keyword.arg: keyword.value for keyword in node.keywords if keyword.arg}
        if name == "not_logged_in":
            family, default, http = errors.AccessError, "not-authenticated", 401
        code = _constant(given.get("code")) if "code" in given else default or (family.CODE if family else None)
        if name == "render" and len(node.args) >= 4:
            family = errors.InternalError if _constant(node.args[0]) == 500 else errors.RequestError
            code, given = _constant(node.args[1]), {"status": node.args[0], "hint": node.args[3]}
            node.args = node.args[2:]
        if name == "Verdict" and len(node.args) == 3:
            family, code, node.args = errors.AccessError, _constant(node.args[1]), node.args[2:]
        if family is None or not isinstance(code, str):
            continue
        hint = given.get("hint")
        said = texts.get(hint.id) if isinstance(hint, ast.Name) else _text(hint)
        if name == "not_logged_in":
            said = "log in again: hipercow-slurm login"
        status = _constant(given.get("status")) or http
        yield (
            code,
            family,
            status if isinstance(status, int) else None,
            _text(node.args[0] if node.args else None),
            said,
        )


def _subclasses(tree: ast.Module) -> dict[str, tuple[type[errors.Error], str | None, int | None]]:
    """Classes of the module that derive from a family: name -> family, code, HTTP status."""
    found = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef) and node.bases:
            family = FAMILIES.get(getattr(node.bases[0], "id", getattr(node.bases[0], "attr", "")))
            if family is None or node.name in FAMILIES:
                continue
            own: dict[str, object] = {}
            for line in node.body:
                if isinstance(line, ast.Assign) and isinstance(line.targets[0], ast.Tuple):
                    names = [getattr(target, "id", "") for target in line.targets[0].elts]
                    own |= dict(zip(names, map(_constant, getattr(line.value, "elts", [])), strict=False))
            code, status = own.get("CODE"), own.get("HTTP")
            found[node.name] = (
                family,
                code if isinstance(code, str) else None,
                status if isinstance(status, int) else None,
            )
    return found


def _constant(node: ast.AST | None) -> object:
    return node.value if isinstance(node, ast.Constant) else None


def _text(node: ast.AST | None) -> str | None:
    """A text or f-string, with ``...`` where something is filled in."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        parts = [part.value if isinstance(part, ast.Constant) else "..." for part in node.values]
        return "".join(map(str, parts)).replace("......", "...")
    return None
