"""The driver ``slurm`` for the package hipercow: importing this registers it.

    import hipercow_slurm.hipercow
    from hipercow.configure import configure
    configure("slurm")

On the command line ``hipercow-slurm hipercow ...`` is hipercow's own program with this driver in it. README.md in this
folder says how it works.
"""

from hipercow_slurm.hipercow.driver import SlurmDriver
from hipercow_slurm.hipercow.settling import Watcher, settle

__all__ = ["SlurmDriver", "Watcher", "settle"]
