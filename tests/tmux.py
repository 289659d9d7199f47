"""A real terminal for tests: tmux on a socket of its own, what a person types, and what the screen shows."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

PATIENCE_S = 40.0


class Terminal:
    """One terminal with a program in it; a context manager that ends both.

    Args:
        argv: the program; a shell, for most tests.
        env: its whole environment, but for TERM and the terminal's size, which tmux sets.
    """

    def __init__(
        self, folder: Path, argv: Sequence[str], env: Mapping[str, str], *, width: int = 80, height: int = 24
    ) -> None:
        # tmux's own environment is the program's: nothing of ours reaches it.
        self._env = {"PATH": os.environ["PATH"], "LANG": "C.UTF-8", **env}
        self._socket = folder / "tmux.sock"
        command = shlex.join(argv)
        # The screen stays when the program has ended, for whoever wants to know why.
        self._tmux(
            *("-f", "/dev/null", "new-session", "-d", "-x", str(width), "-y", str(height), "-c", str(folder), command),
            *(";", "set-option", "-g", "remain-on-exit", "on"),
        )

    def __enter__(self) -> Terminal:
        return self

    def __exit__(self, *_: object) -> None:
        self._tmux("kill-server", check=False)

    def type(self, text: str) -> None:
        """Type ``text`` and Enter."""
        self.write(text)
        self.press("Enter")

    def press(self, *keys: str) -> None:
        """Press keys by tmux's names: Enter, Tab, C-c."""
        self._tmux("send-keys", *keys)

    def resize(self, width: int, height: int) -> None:
        """Another size, as when a window is dragged."""
        self._tmux("resize-window", "-x", str(width), "-y", str(height))

    def screen(self, *, colours: bool = False) -> str:
        """What is on the screen, without the blanks at lines' ends and the empty lines below."""
        shown = self._tmux("capture-pane", "-p", *(["-e"] if colours else []))
        return "\n".join(line.rstrip() for line in shown.splitlines()).rstrip()

    def write(self, text: str) -> None:
        """Type ``text`` without Enter."""
        self._tmux("send-keys", "-l", "--", text)

    def lines(self) -> list[str]:
        """The screen's lines."""
        return self.screen().splitlines()

    def shows(self, pattern: str, *, within_s: float = PATIENCE_S) -> re.Match[str]:
        """Wait until the screen has ``pattern`` (a regular expression, ^ and $ for lines)."""
        found: list[re.Match[str]] = []

        def look() -> bool:
            match = re.search(pattern, self.screen(), re.MULTILINE)
            found.extend([match] if match else [])
            return match is not None

        self.until(f"the screen shows {pattern!r}", look, within_s=within_s)
        return found[-1]

    def until(self, what: str, probe: Callable[[], bool], *, within_s: float = PATIENCE_S) -> None:
        """Wait for something; AssertionError with the screen if it does not come."""
        end = time.monotonic() + within_s
        while not probe():
            assert time.monotonic() < end, f"not within {within_s:g} s: {what}. The screen:\n{self.screen()}"
            time.sleep(0.05)

    def _tmux(self, *arguments: str, check: bool = True) -> str:
        done = subprocess.run(
            ["tmux", "-S", str(self._socket), *arguments],
            env=self._env,
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
        assert done.returncode == 0 or not check, (arguments, done.stderr)
        return done.stdout
