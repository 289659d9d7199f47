"""hipercow-slurm: submit Slurm jobs from anywhere, with a Kerberos ticket that lives as long as the job."""

__version__ = "0.1.0"
