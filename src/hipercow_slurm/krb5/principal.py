r"""Principal names as text, ``alice@REALM`` or ``host/c1.example@REALM``, parsed without libkrb5.

The text form is libkrb5's (krb5_parse_name, krb5_unparse_name): ``/`` separates components, ``@`` begins the realm,
a backslash quotes the next character (``\t \n \b \0`` are control characters). Stricter than libkrb5 on purpose,
because this text goes into rules, logs and wire records: no control characters (so none of those four), no empty
component, no empty realm, valid UTF-8, at most 255 characters.
"""

from __future__ import annotations

from dataclasses import dataclass

from hipercow_slurm.errors import RequestError

MAX_TEXT = 255

NT_PRINCIPAL = 1
NT_SRV_INST = 2


@dataclass(frozen=True, slots=True)
class Principal:
    """A principal name: its components in order, and its realm. ``str()`` gives the quoted text."""

    components: tuple[str, ...]
    realm: str

    def __str__(self) -> str:
        return "/".join(map(_quote, self.components)) + "@" + _quote(self.realm)

    @classmethod
    def parse(cls, text: str, *, default_realm: str | None = None) -> Principal:
        """Parse a principal's text.

        Args:
            default_realm: taken when the text names none; without it the realm must be there.

        Raises:
            RequestError: code ``bad-principal``.
        """
        if len(text) > MAX_TEXT * 2:  # quoting at most doubles it
            raise _bad(text[:MAX_TEXT], f"it is longer than {MAX_TEXT} bytes")
        parts: list[list[str]] = [[]]
        realm: list[str] | None = None
        characters = iter(text)
        for character in characters:
            target = parts[-1] if realm is None else realm
            if character == "\\":
                quoted = next(characters, None)
                if quoted is None or quoted in "tnb0":
                    raise _bad(text, "it ends in a backslash or quotes a control character")
                target.append(quoted)
            elif character == "@":
                if realm is not None:
                    raise _bad(text, "it has two realms")
                realm = []
            elif character == "/":
                if realm is not None:
                    raise _bad(text, "its realm has a slash that is not quoted")
                parts.append([])
            else:
                target.append(character)
        name = "".join(realm) if realm is not None else default_realm
        if name is None:
            raise _bad(text, "it names no realm")
        return cls.of(["".join(part) for part in parts], name)

    @classmethod
    def of(cls, components: list[str] | tuple[str, ...], realm: str) -> Principal:
        """Make one from its parts.

        Raises:
            RequestError: code ``bad-principal``: a part is empty, not encodable or holds a control character, or
                the whole is too long.
        """
        principal = cls(tuple(components), realm)
        shown = str(principal)
        if not components or not all(components) or not realm:
            raise _bad(shown, "a part of it is empty")
        if not shown.isprintable():
            raise _bad(shown, "it holds a character that cannot be printed")
        if len(shown.encode("utf-8", "replace")) > MAX_TEXT:
            raise _bad(shown[:MAX_TEXT], f"it is longer than {MAX_TEXT} bytes")
        return principal

    @property
    def is_local_tgs(self) -> bool:
        """True for krbtgt/R@R, whose tickets are the TGTs of realm R."""
        return self.components == ("krbtgt", self.realm)

    @property
    def is_tgs(self) -> bool:
        """True for krbtgt/anything@R: a TGT, local or cross-realm."""
        return len(self.components) == 2 and self.components[0] == "krbtgt"

    @property
    def name_type(self) -> int:
        """The name-type MIT gives such a name (RFC 4120 section 6.2); nobody compares it."""
        return NT_SRV_INST if self.is_tgs else NT_PRINCIPAL


def _quote(part: str) -> str:
    if "\\" in part or "/" in part or "@" in part:
        return part.replace("\\", "\\\\").replace("/", "\\/").replace("@", "\\@")
    return part


def _bad(text: str, why: str) -> RequestError:
    return RequestError(f"{text!r} is not a principal name: {why}", code="bad-principal")
