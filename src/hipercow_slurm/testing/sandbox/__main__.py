"""The supervisor's process; see supervisor.py."""

from hipercow_slurm.testing.sandbox import supervisor

if __name__ == "__main__":
    supervisor.run()
