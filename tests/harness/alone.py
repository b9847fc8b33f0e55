"""The world of a rank without peers, for a CheckpointManager."""


class Alone:
    """What of a process group counts."""

    rank, world_size, store = 0, 1, None
