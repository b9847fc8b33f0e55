"""`storage_options:`: whose is what, no secrets, and the way to the ranks."""

import json
import subprocess
import sys

import pytest

from torchrelay.contract import storage_options
from torchrelay.contract.errors import ConfigError
from torchrelay.contract.storage import LocalStorage, open_storage
from torchrelay.contract.storage_options import RequestLimits


def test_own_limits_and_the_drivers_options_are_told_apart():
    limits, others = storage_options.split({"retry_s": 5, "parallel": 2, "endpoint_url": "http://minio:9000"})
    assert limits == RequestLimits(retry_s=5.0, parallel=2)
    assert others == {"endpoint_url": "http://minio:9000"}


@pytest.mark.parametrize("value", [0, -1, "5", True, None, [], 1.5])
def test_limits_are_numbers_above_0(value):
    with pytest.raises(ConfigError, match=r"storage_options.parallel: expected a whole number above 0"):
        storage_options.split({"parallel": value})


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"key": "AKIA"}, "key"),
        ({"secret": "x"}, "secret"),
        ({"token": "x"}, "token"),
        ({"password": "x"}, "password"),
        ({"sas_token": "x"}, "sas_token"),
        ({"account_key": "x"}, "account_key"),
        ({"connection_string": "x"}, "connection_string"),
        ({"client_kwargs": {"aws_secret_access_key": "x"}}, "client_kwargs.aws_secret_access_key"),
        ({"client_kwargs": {"AWS-Session-Token": "x"}}, "client_kwargs.AWS-Session-Token"),
        ({"token": {"private_key_id": "x", "type": "service_account"}}, "token.private_key_id"),
        ({"endpoint_url": "https://user:word@minio:9000"}, "endpoint_url"),
        ({"account_url": "https://x.blob.core.windows.net/?sig=abc"}, "account_url"),
        ({"s3_additional_kwargs": {"SSECustomerKey": "x"}}, "s3_additional_kwargs.SSECustomerKey"),
        ({"client_kwargs": {"accountKey": "x"}}, "client_kwargs.accountKey"),
        ({"connectionString": "x"}, "connectionString"),
        ({"headers": {"X-Api-Key": "x"}}, "headers.X-Api-Key"),
        ({"headers": {"X-Auth": "Bearer abc"}}, "headers.X-Auth"),
        ({"passphrase": "x"}, "passphrase"),
        ({"account": "AccountName=a;AccountKey=abc==;"}, "account"),
        ({"client_kwargs": {"id": "AKIAIOSFODNN7EXAMPLE"}}, "client_kwargs.id"),
        ({"cert": "-----BEGIN RSA PRIVATE KEY-----"}, "cert"),
    ],
)
def test_secrets_are_refused_by_name_and_never_shown(options, name):
    with pytest.raises(ConfigError, match="secrets must not stand in a spec") as caught:
        open_storage("memory://runs", options)
    assert f"storage_options: {name}:" in str(caught.value)
    assert "AKIA" not in str(caught.value)
    assert "word@" not in str(caught.value)
    assert storage_options.secrets_in(options) == [name]


def test_what_only_says_where_to_look_is_no_secret():
    options = {
        "anon": True,
        "token": "google_default",
        "profile": "research",
        "endpoint_url": "http://minio:9000",
        "account_name": "team",
        "s3_additional_kwargs": {"ServerSideEncryption": "aws:kms", "SSEKMSKeyId": "alias/runs"},
    }
    assert storage_options.secrets_in(options) == []


def test_options_travel_by_the_environment(monkeypatch):
    for name, value in storage_options.to_environment({"retry_s": 9}).items():
        monkeypatch.setenv(name, value)
    assert storage_options.from_environment() == {"retry_s": 9}
    assert open_storage("memory://runs").connection.limits.retry_s == 9
    assert storage_options.to_environment({}) == {}
    with pytest.raises(ConfigError, match="secrets"):
        storage_options.to_environment({"secret": "x"})


@pytest.mark.parametrize("text", ["{", "[1]", "3"])
def test_a_damaged_environment_is_named(monkeypatch, text):
    monkeypatch.setenv("TORCHRELAY_STORAGE_OPTIONS", text)
    with pytest.raises(ConfigError, match="TORCHRELAY_STORAGE_OPTIONS"):
        open_storage("memory://runs")


def test_local_paths_need_neither_fsspec_nor_asyncio(tmp_path):
    program = f"""
import json, sys
from torchrelay.contract.storage import open_storage
storage = open_storage({str(tmp_path)!r})
storage.create("a", b"x")
storage.append("b", b"x")
storage.flush()
print(json.dumps([name for name in ("fsspec", "asyncio", "s3fs", "botocore") if name in sys.modules]))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True, timeout=60)
    assert json.loads(done.stdout) == []


def test_protocols(tmp_path):
    assert isinstance(open_storage(f"file://{tmp_path}"), LocalStorage)
    with pytest.raises(ConfigError, match="fsspec knows no such protocol"):
        open_storage("s4://bucket/runs")
    with pytest.raises(ConfigError, match="chained"):
        open_storage("simplecache::s3://bucket/runs")


@pytest.mark.parametrize(
    ("url", "module", "extra"),
    [
        ("s3://bucket/runs", "s3fs", "s3"),
        ("gs://bucket/runs", "gcsfs", "gcs"),
        ("az://container/runs", "adlfs", "azure"),
    ],
)
def test_a_missing_driver_names_its_extra(url, module, extra):
    program = f"""
import sys
sys.modules[{module!r}] = None
from torchrelay.contract.errors import ConfigError
from torchrelay.contract.storage import open_storage
try:
    open_storage({url!r})
except ConfigError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True, timeout=60, text=True)
    assert f"pip install 'torchrelay[{extra}]'" in done.stdout
