"""Where a job can be placed. Backends know nothing of each other."""

from torchrelay_launch.backends.base import Backend, RunRef, Submission, load_backend

__all__ = ["Backend", "RunRef", "Submission", "load_backend"]
