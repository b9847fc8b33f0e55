"""Files that travel with the launcher, such as the batch script for Slurm: in the wheel, or else in the checkout."""

from pathlib import Path

from torchrelay.contract.errors import ConfigError

_PACKAGE = Path(__file__).parent


def shipped_file(path: str) -> Path:
    """A file by its path in the repository. Raises: ConfigError if this installation lacks it."""
    for root in (_PACKAGE / "shipped", _PACKAGE.parent.parent):
        if (root / path).is_file():
            return root / path
    raise ConfigError(f"this installation of torchrelay lacks {path}; install it again")
