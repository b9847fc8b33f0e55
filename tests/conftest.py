"""Two lanes for `make test`: the tests of a real Slurm cluster, which mostly wait, and all others beside them."""

from pathlib import Path

import pytest

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give each test its lane, which one worker of pytest-xdist runs in order, given `-n 2 --dist loadgroup`."""
    for item in items:
        lane = "slurm" if item.path.is_relative_to(HERE / "slurm") else "others"
        item.add_marker(pytest.mark.xdist_group(lane))
