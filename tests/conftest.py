"""Two lanes for `make test`: the tests of a real Slurm cluster, which mostly wait, and all others beside them."""

from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

HERE = Path(__file__).parent

# No test fails because the machine is busy, and by itself hypothesis wants each example within 0.2 s.
settings.register_profile("patient", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("patient")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give each test its lane, which one worker of pytest-xdist runs in order, given `-n 2 --dist loadgroup`."""
    for item in items:
        lane = "slurm" if item.path.is_relative_to(HERE / "slurm") else "others"
        item.add_marker(pytest.mark.xdist_group(lane))
