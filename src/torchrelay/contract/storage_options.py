"""How storage is reached: the spec's `storage_options:`, and the environment variable that hands them to the ranks.

A few options are torchrelay's own (`OWN`); all others go to the fsspec driver of the URL as they are, on top of what
fsspec's own configuration files say. Secrets have no place here: options are written into the run's records.
"""

import os
import re
from dataclasses import dataclass
from typing import Any

from torchrelay.contract.environment import STORAGE_OPTIONS
from torchrelay.contract.errors import ConfigError
from torchrelay.contract.settings import Json


@dataclass(frozen=True)
class RequestLimits:
    """What torchrelay itself does with object storage; each field is an option of `storage_options:`."""

    retry_s: float = 300.0  # one request and all its retries take no longer than this
    timeout_s: float = 60.0  # one try, and a second more for every MiB that it carries
    part_bytes: int = 8 * 2**20  # larger objects go up and come down in parts of this size; S3 takes 5 MiB at least
    parallel: int = 8  # parts under way at once
    flush_s: float = 3.0  # what is appended is visible to others after so long


OWN = tuple(RequestLimits.__dataclass_fields__)

_SECRET_WORDS = (
    "secret",
    "password",
    "passwd",
    "token",
    "sas",
    "credential",
    "access_key",
    "account_key",
    "private_key",
    "customer_key",
    "api_key",
    "shared_key",
    "connection_string",
    "passphrase",
    "cookie",
)
_SECRET_NAMES = ("key", "auth", "authorization", "username", "user", "fs_options", "pass", "pwd", "conn_str")
_HARMLESS_TOKENS = ("anon", "cloud", "google_default")  # gcsfs: where to look for credentials, not credentials
_USER_IN_URL = re.compile(r"://[^/@\s]*:[^/@\s]*@")
_SIGNED_URL = re.compile(r"[?&](sig|X-Amz-Signature|X-Goog-Signature)=", re.IGNORECASE)
_SECRET_TEXT = re.compile(
    r"AccountKey=|SharedAccessSignature=|-----BEGIN [A-Z ]*PRIVATE KEY|\bBearer \S|\bAKIA[0-9A-Z]{16}\b"
)


def split(options: dict[str, Json]) -> tuple[RequestLimits, dict[str, Any]]:
    """The limits that torchrelay keeps itself, and what goes to the driver.

    Raises: ConfigError for a secret or a bad number.
    """
    refuse_secrets(options)
    own = {name: _positive(name, options[name]) for name in OWN if name in options}
    return RequestLimits(**own), {name: value for name, value in options.items() if name not in OWN}


def from_environment() -> dict[str, Json]:
    """The options that a launcher left for the processes that it starts. Raises: ConfigError if they are no JSON."""
    import json

    text = os.environ.get(STORAGE_OPTIONS, "")
    try:
        options = json.loads(text) if text else {}
    except ValueError as error:
        raise ConfigError(f"{STORAGE_OPTIONS} is not JSON: {error}") from None
    if not isinstance(options, dict):
        raise ConfigError(f"{STORAGE_OPTIONS} must be a JSON object such as {{}}, not {type(options).__name__}")
    return options


def to_environment(options: dict[str, Json]) -> dict[str, str]:
    """The variable by which a launcher hands options on; empty if there are none. Raises: ConfigError for a secret."""
    import json

    refuse_secrets(options)
    return {STORAGE_OPTIONS: json.dumps(options, sort_keys=True)} if options else {}


def refuse_secrets(options: dict[str, Json]) -> None:
    """Raises: ConfigError that names every option that looks like a secret, and where secrets belong."""
    found = secrets_in(options)
    if found:
        raise ConfigError(
            f"storage_options: {', '.join(found)}: secrets must not stand in a spec, which is kept with the run; "
            "leave them in the environment (AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, "
            "GOOGLE_APPLICATION_CREDENTIALS, AZURE_STORAGE_CONNECTION_STRING), name those variables under `secrets:`, "
            "or use a profile (`storage_options: {profile: NAME}`) or an instance's own role"
        )


def secrets_in(options: dict[str, Json]) -> list[str]:
    """Dotted names of the options that look like a secret in clear."""
    return [name for name, key, value in _leaves(options, "") if _is_secret(key, value)]


def _leaves(value: Json, name: str, key: str = "") -> list[tuple[str, str, Json]]:
    """Every plain value with its dotted name and the last key on the way to it."""
    if isinstance(value, dict):
        return [leaf for k, item in value.items() for leaf in _leaves(item, f"{name}.{k}" if name else str(k), str(k))]
    if isinstance(value, list):
        return [leaf for item in value for leaf in _leaves(item, name, key)]
    return [(name, key, value)]


def _is_secret(key: str, value: Json) -> bool:
    if isinstance(value, str) and any(one.search(value) for one in (_USER_IN_URL, _SIGNED_URL, _SECRET_TEXT)):
        return True
    if value is None or isinstance(value, bool):
        return False
    name = _joined(key)
    if name == "token" and value in _HARMLESS_TOKENS:
        return False
    return name in map(_joined, _SECRET_NAMES) or any(_joined(word) in name for word in _SECRET_WORDS)


def _joined(name: str) -> str:
    """A name however it is written: account_key, account-key, accountKey."""
    return name.lower().replace("-", "").replace("_", "")


def _positive(name: str, value: Json) -> Any:
    kind = RequestLimits.__dataclass_fields__[name].type
    whole = kind in (int, "int")
    if isinstance(value, bool) or not isinstance(value, (int, float)) or value <= 0 or (whole and value != int(value)):
        raise ConfigError(
            f"storage_options.{name}: expected a {'whole ' if whole else ''}number above 0, not {value!r}"
        )
    return int(value) if whole else float(value)
