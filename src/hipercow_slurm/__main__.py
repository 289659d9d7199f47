"""``python -m hipercow_slurm`` is the ``hipercow-slurm`` command."""

from hipercow_slurm.cli.main import main

main()
