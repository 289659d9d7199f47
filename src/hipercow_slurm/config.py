"""Reading a program's TOML file into its frozen struct; unknown keys and wrong types are errors.

Each program defines its own ``msgspec.Struct`` (frozen, ``forbid_unknown_fields=True``) beside its code; this
module only knows how to read one and how to say what is wrong with it.
"""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import TypeVar

import msgspec

from hipercow_slurm.errors import ConfigError

T = TypeVar("T")

DEFAULT_DIR = Path("/etc/hipercow-slurm")


def load(path: Path, kind: type[T]) -> T:
    """Read ``path`` as TOML into ``kind``.

    Raises:
        ConfigError: the file cannot be read, is not TOML, or does not fit ``kind``; the message names the
            file, the line where TOML tells it, and the key.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read configuration {path}: {error}") from error
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path}: not valid TOML: {error}") from error
    try:
        return msgspec.convert(document, kind)
    except msgspec.ValidationError as error:
        raise ConfigError(f"{path}{_line_of(text, str(error))}: {error}") from error


def _line_of(text: str, message: str) -> str:
    """``:LINE`` of the key a msgspec message names (in backquotes), or nothing."""
    # A field's own name comes first; the path to it (`$.signer`) helps where the field is missing.
    quoted = sorted(re.findall(r"`([^`]+)`", message), key=lambda text: text.startswith("$"))
    names = [part for text in quoted for part in reversed(re.split(r"[.\[\]$]+", text)) if part]
    for name in names:
        for number, line in enumerate(text.splitlines(), start=1):
            if re.match(rf"\s*\[*{re.escape(name)}\b", line):
                return f":{number}"
    return ""
