"""The launcher: from a job spec to torchrun, on this machine, on Slurm or on Kubernetes. Imports no torch."""
