"""What rank 0 writes down for people to look at: events, TensorBoard curves and plain lines."""

from torchrelay.observe.observer import Observer

__all__ = ["Observer"]
