"""Slurm by its REST API: what a job is, and a client of slurmrestd."""
