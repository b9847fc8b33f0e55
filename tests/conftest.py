"""Two lanes for `make test`: the tests of a real Slurm cluster, which mostly wait, and all others beside them."""

from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from xdist.scheduler import LoadScopeScheduling

# No test fails because the machine is busy, and by itself hypothesis wants each example within 0.2 s.
settings.register_profile("patient", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("patient")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> LoadScopeScheduling:
    """With `-n 2`, one worker of pytest-xdist runs each lane in order.

    Not by marks and `--dist loadgroup`: pytest-xdist 3.8 writes them into a field that pytest 9.2 has no more.
    """
    return Lanes(config, log)


class Lanes(LoadScopeScheduling):
    """Work is handed out by the lane."""

    def _split_scope(self, nodeid: str) -> str:
        return "slurm" if nodeid.startswith("tests/slurm/") else "others"
