"""Drivers that retry or renew keys must not draw from `random`, which a resumed training has to find as it was."""

import datetime
import random

import pytest
from faulty_proxy import FaultyProxy

from torchrelay.contract.storage import open_storage


@pytest.mark.parametrize("mode", ["legacy", "standard"])
def test_the_retries_of_botocore_leave_random_alone(s3_environment, s3_url, mode):
    """Switched on by the user; each pause between two of them is random."""
    with FaultyProxy(s3_environment) as proxy:
        retries = {"mode": mode, "total_max_attempts": 4}
        storage = open_storage(s3_url, {"endpoint_url": proxy.url, "config_kwargs": {"retries": retries}})
        storage.list("")
        proxy.script = [("PUT", "500"), ("PUT", "503")]
        proxy.requests.clear()
        random.seed(1)
        before = random.getstate()
        storage.create("file", b"x")
        assert random.getstate() == before
        assert [line.partition(" ")[0] for line in proxy.requests] == ["PUT"] * 3
    assert storage.read("file") == b"x"


def test_the_key_of_a_role_leaves_random_alone(s3_url):
    """On a machine in the cloud it is fetched anew several times a day, and botocore spreads that at random."""
    open_storage(s3_url).list("")
    from botocore.utils import InstanceMetadataFetcher

    soon = datetime.datetime.now(datetime.UTC) + datetime.timedelta(minutes=1)
    key = {"expiry_time": soon.strftime("%Y-%m-%dT%H:%M:%SZ")}
    random.seed(1)
    before = random.getstate()
    InstanceMetadataFetcher()._evaluate_expiration(key)
    assert key["expiry_time"] > soon.strftime("%Y-%m-%dT%H:%M:%SZ")  # it has drawn
    assert random.getstate() == before


def test_what_drivers_draw_is_random(s3_url):
    open_storage(s3_url).list("")
    import botocore.utils

    drawn = {botocore.utils.random.randint(0, 10**9) for _ in range(10)}
    assert len(drawn) > 5
    assert botocore.utils.random is not random
