"""Files of this machine: read whole, written aside and renamed."""

from __future__ import annotations

import contextlib
import os
import tempfile
from pathlib import Path

from hipercow_slurm.errors import RequestError

UPLOAD_LIMIT = 2**30


class Aside:
    """A file that takes its name when it is complete; what was there stays if it is not.

    Raises:
        RequestError: "no-local-file": it cannot be written.
    """

    def __init__(self, path: Path) -> None:
        self._path, self.size = path, 0

    def __enter__(self) -> Aside:
        try:
            descriptor, aside = tempfile.mkstemp(prefix=f".{self._path.name}-", dir=self._path.parent)
        except OSError as error:
            raise self._refusal(error) from error
        self._file, self._aside = open(descriptor, "wb"), Path(aside)
        return self

    def write(self, data: bytes) -> None:
        """Append ``data``."""
        try:
            self._file.write(data)
        except OSError as error:
            raise self._refusal(error) from error
        self.size += len(data)

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            with contextlib.ExitStack() as undo:
                undo.callback(self._aside.unlink, missing_ok=True)
                self._file.close()
                if kind is None:
                    umask = os.umask(0)
                    os.umask(umask)
                    with contextlib.suppress(FileNotFoundError):
                        umask = 0o777 & ~self._path.stat().st_mode
                    self._aside.chmod(0o666 & ~umask)
                    self._aside.replace(self._path)
                    undo.pop_all()
        except OSError as error:
            raise self._refusal(error) from error

    def _refusal(self, error: OSError) -> RequestError:
        return RequestError(f"cannot write {self._path}: {error.strerror}", code="no-local-file")


def make_folder(path: Path) -> None:
    """Make a folder here, unless there is one. RequestError "no-local-file"."""
    try:
        path.mkdir(exist_ok=True)
    except OSError as error:
        raise RequestError(f"cannot make the folder {path}: {error.strerror}", code="no-local-file") from error


SCRIPT_LIMIT = 16 * 2**20


def text(path: Path) -> str:
    """A script's text. Raises RequestError "no-script", "script-too-large"."""
    try:
        with path.open("rb") as file:
            return script(file.read(SCRIPT_LIMIT + 1), str(path))
    except OSError as error:
        raise RequestError(f"cannot read the script {path}: {error.strerror}", code="no-script") from error


def script(data: bytes, what: str) -> str:
    """The text of a script that was read from ``what``. Raises RequestError "no-script", "script-too-large"."""
    if len(data) > SCRIPT_LIMIT:
        raise RequestError(f"{what} has more than {SCRIPT_LIMIT} bytes", code="script-too-large", status=413)
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise RequestError(f"{what} is not a script: it is not text in UTF-8", code="no-script") from error


def content(path: Path) -> tuple[bytes, int]:
    """A file's bytes and mode. Raises RequestError "no-local-file"."""
    try:
        with path.open("rb") as file:
            data = file.read(UPLOAD_LIMIT + 1)
            mode = os.fstat(file.fileno()).st_mode & 0o777
    except OSError as error:
        raise RequestError(f"cannot read {path}: {error.strerror}", code="no-local-file") from error
    if len(data) > UPLOAD_LIMIT:
        raise RequestError(f"{path} has more than {UPLOAD_LIMIT} bytes", code="file-too-large", status=413)
    return data, mode
