"""Metrics: what each daemon's registry holds."""

from __future__ import annotations

from typing import Any

from prometheus_client import CollectorRegistry

from hipercow_slurm import metrics
from hipercow_slurm.api.metrics import ApiMetrics
from hipercow_slurm.auksd.metrics import AuksdMetrics


def page() -> str:
    """The page."""
    parts = [
        "# Metrics",
        "`[metrics] listen = '127.0.0.1:9464'` in `api.toml` and `auksd.toml` turns on `GET /metrics` for Prometheus "
        "and `GET /health`: 200 if every check is well, else 503, with a sentence for each. Without it nothing "
        "listens. No label ever holds a principal, a uid or an address. Every daemon also has prometheus_client's own "
        "numbers of its process: memory, CPU, open files (`process_*`), and `hipercow_slurm_build_info` with "
        "its version.",
    ]
    for program, kind in (("api", ApiMetrics), ("auksd", AuksdMetrics)):
        registry = CollectorRegistry()
        labels = _labels(kind(registry))
        lines = [f"## {program}", "", "| name | type | labels | |", "|---|---|---|---|"]
        for family in registry.collect():
            name = f"{family.name}_total" if family.type == "counter" else family.name
            shown = ", ".join(f"`{label}`" for label in labels.get(family.name, ())) or "none"
            if family.name not in labels:
                shown = "`le`"
            lines.append(f"| `{name}` | {family.type} | {shown} | {family.documentation} |")
        parts.append("\n".join(lines))
    assert metrics.Settings().listen is None
    return "\n\n".join(parts)


def _labels(holder: Any) -> dict[str, tuple[str, ...]]:
    """Family -> its label names, of the metrics that an object holds."""
    held = [value for value in vars(holder).values() if hasattr(value, "_labelnames")]
    return {value.describe()[0].name: value._labelnames for value in held}
