"""What a KDC asks for beyond a password, one-time codes and PINs: libkrb5's prompter, answered from a list.

libkrb5 asks while the exchange runs, and nobody is there to type. So the exchange is begun with the answers known so
far; where it asks for more, the prompts are noted and the exchange ends. The user answers, and it is begun anew with
one answer more for each prompt. That costs the KDC an exchange, and keeps nothing open while a person thinks.

Source: krb5.h, krb5_prompter_fct; the prompts of RFC 6560 are those of MIT's preauth_otp.c, as seen in a run.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from hipercow_slurm.errors import CredentialError
from hipercow_slurm.krb5 import codes
from hipercow_slurm.krb5.lib import MODE, NULL, ffi, lib

MAX_PROMPTS = 8  # of one login; a KDC that asks more is not one we can talk to
MAX_TEXT = 500  # characters of a prompt that are shown

PREAUTH = 4  # KRB5_PROMPT_TYPE_PREAUTH; the others are about passwords, which are not asked for in this way
_CANNOT = codes.NUMBERS["KRB5_LIBOS_CANTREADPWD"]


@dataclass(frozen=True, slots=True)
class Prompt:
    """One question of the KDC's: its text, and whether the answer is a secret."""

    text: str
    hidden: bool


class AnswersWantedError(CredentialError):
    """The KDC wants more than a password: ``prompts`` in order, behind those answered already."""

    CODE, HTTP = "answers-wanted", 409

    def __init__(self, message: str, prompts: Sequence[Prompt]) -> None:
        super().__init__(message, hint="log in again with an answer to each prompt beside the password")
        self.prompts = tuple(prompts)


class Questions:
    """The prompter of one exchange.

    Args:
        answers: UTF-8, one for each prompt, in the order in which the KDC asks; they are not changed.
    """

    def __init__(self, answers: Sequence[bytes | bytearray]) -> None:
        self._answers = list(answers)
        self.open: list[Prompt] = []

    @contextlib.contextmanager
    def prompter(self) -> Iterator[tuple[Any, Any]]:
        """A krb5_prompter_fct and its data, good for the length of the block."""
        if MODE == "api":
            yield lib.hipercow_slurm_prompter, ffi.new_handle(self)
        else:
            signature = "int32_t(krb5_context, void *, const char *, const char *, int, krb5_prompt *)"
            yield ffi.callback(signature, self._asked, error=_CANNOT), NULL

    def _asked(self, own_context: Any, _data: Any, name: Any, banner: Any, number: int, prompts: Any) -> int:
        """libkrb5 wants ``number`` answers (none: it only tells something)."""
        if number == 0:
            return 0
        kinds = lib.krb5_get_prompt_types(own_context)
        if kinds == NULL or any(kinds[at] != PREAUTH for at in range(number)) or number > MAX_PROMPTS:
            return _CANNOT
        if len(self._answers) < number:
            said = [_text(one) for one in (name, banner) if one != NULL]
            for at in range(number):
                text = "\n".join([*said, _text(prompts[at].prompt)]).strip()
                self.open.append(Prompt(text[:MAX_TEXT], bool(prompts[at].hidden)))
                said = []
            return _CANNOT
        for at in range(number):
            if not _reply(prompts[at].reply, self._answers.pop(0)):
                return _CANNOT
        return 0


def _static(own_context: Any, data: Any, name: Any, banner: Any, number: int, prompts: Any) -> int:
    """The compiled module's one prompter: ``data`` says whose."""
    questions = ffi.from_handle(data)
    return int(questions._asked(own_context, data, name, banner, number, prompts))


if MODE == "api":
    ffi.def_extern(name="hipercow_slurm_prompter", error=_CANNOT)(_static)


def _reply(reply: Any, answer: bytes | bytearray) -> bool:
    """Put an answer into libkrb5's buffer, whose size it tells by its length; False when it does not fit."""
    if len(answer) >= reply.length:
        return False
    ffi.memmove(reply.data, answer, len(answer))
    reply.data[len(answer)] = b"\0"
    reply.length = len(answer)
    return True


def _text(pointer: Any) -> str:
    """A C string for people: lines stay, other control characters go."""
    said = bytes(ffi.string(pointer, 4 * MAX_TEXT)).decode("utf-8", "replace")
    return "\n".join("".join(c for c in line if c.isprintable()) for line in said.splitlines())
