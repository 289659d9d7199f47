"""Structured log lines: ``log.info("cred.added", uid=5001, principal="alice@R")``.

Rule 1: event names are ``part.what`` and stable; values are plain. Rule 2: no password, ticket, key or token, not
even its length in bytes where that could tell something; ``KrbCred`` prints itself safely.
"""

from __future__ import annotations

import logging
import sys
from typing import Any

import structlog


def setup(program: str, *, level: str = "info", json: bool = False) -> None:
    """Send one line per event to stderr, as ``key=value`` or JSON, with the program's name in each."""
    renderer: Any = (
        structlog.processors.JSONRenderer()
        if json
        else structlog.processors.LogfmtRenderer(key_order=["ts", "level", "program", "event"])
    )
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            _named(program),
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True, key="ts"),
            structlog.processors.format_exc_info,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(getattr(logging, level.upper())),
        logger_factory=structlog.WriteLoggerFactory(file=sys.stderr),
        cache_logger_on_first_use=True,
    )


def _named(program: str) -> Any:
    """Put the program's name in each event; not a context variable, which worker threads would not see."""

    def add(logger: Any, method: str, event: dict[str, Any]) -> dict[str, Any]:
        event["program"] = program
        return event

    return add


def get() -> Any:
    """The logger; bind context with ``log.get().bind(job_id=7)``."""
    return structlog.get_logger()
