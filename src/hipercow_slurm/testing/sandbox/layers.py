"""Folders of the machine that a host can change for itself alone: overlays, what is written goes to memory."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from hipercow_slurm.testing.sandbox import namespaces


@dataclass(frozen=True, slots=True)
class Layer:
    """One overlay, looked up before other mounts hide where its parts lie: open descriptors of them.

    Attributes:
        place: where it is mounted.
        lower, upper, work: the machine's folder, what the host writes, overlayfs' own.
    """

    place: str
    lower: int
    upper: int
    work: int

    def mount(self) -> None:
        """Mount it in this mount namespace."""
        Path(self.place).mkdir(parents=True, exist_ok=True)
        parts = {"lowerdir": self.lower, "upperdir": self.upper, "workdir": self.work}
        data = ",".join(f"{key}=/proc/self/fd/{fd}" for key, fd in parts.items())
        namespaces.mount("overlay", self.place, "overlay", data=data)


def hold(place: str, written: Path) -> Layer:
    """The layer over the machine's ``place``; what is written goes below the folder ``written``."""
    for part in ("upper", "work"):
        (written / part).mkdir(parents=True)
    return Layer(place, namespaces.hold(place), namespaces.hold(written / "upper"), namespaces.hold(written / "work"))
