"""The only holder of the key that signs Slurm tokens, and its client."""
