"""One connection to an object storage: an fsspec file system of its own, and every request with retries.

torchrelay retries by itself, in one place and with one limit. What s3fs and botocore would do on top (5 times 5 tries)
is switched off, unless the user sets it in `config_kwargs`. The file system is made anew in a forked child, because
fsspec's event loop and its sockets do not survive a fork; it is never shared with instances of the user's own code.
"""

import errno
import logging
import os
import random
import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar, cast

from torchrelay.contract import driver_randomness, object_errors, storage_options
from torchrelay.contract.errors import ConfigError, StorageError
from torchrelay.contract.object_errors import TruncatedError
from torchrelay.contract.settings import Json

logger = logging.getLogger(__name__)
T = TypeVar("T")

EXTRAS = {
    "s3": "s3",
    "s3a": "s3",
    "gs": "gcs",
    "gcs": "gcs",
    "az": "azure",
    "abfs": "azure",
    "abfss": "azure",
    "adl": "azure",
}
# Drivers whose `mode="create"` fails on the server (or, in memory, under our lock) when the name is taken.
EXCLUSIVE = ("s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "memory")

_FIRST_TOUCH_S = 10.0  # an endpoint that has never answered is more likely misspelt than down
_LONGEST_PAUSE_S = 10.0
_HTTP_RANGE = 416
_JITTER = random.SystemRandom()  # drawing from `random` itself would change what a training draws from it


class TakenError(FileExistsError):
    """The name is taken. With `tries` above 1, perhaps by an earlier try whose answer was lost."""

    def __init__(self, where: str, tries: int) -> None:
        super().__init__(errno.EEXIST, "already exists", where)
        self.tries = tries


class OutOfRangeError(Exception):
    """The bytes asked for lie behind the object's end."""


class Connection:
    """How one kind of URL is reached with one set of options. Shared by all its folders; safe between threads."""

    def __init__(self, protocol: str, options: dict[str, Json]) -> None:
        self.limits, self.driver_options = storage_options.split(options)
        self.options = options
        self.protocol = protocol
        self._own: dict[str, Any] = {}
        self.touched = False  # whether the storage has ever answered
        self._pid = -1
        self._fs: Any = None
        self._lock = threading.RLock()

    @property
    def is_s3(self) -> bool:
        return self.protocol in ("s3", "s3a")

    @property
    def is_azure(self) -> bool:
        return self.protocol in ("az", "abfs", "abfss")

    @property
    def exclusive(self) -> bool:
        """Whether the storage itself refuses to create what exists."""
        return self.protocol in EXCLUSIVE

    @property
    def fs(self) -> Any:
        """The fsspec file system of this process. Raises: ConfigError if its driver is missing or its options wrong."""
        self._renew_after_fork()
        with self._lock:
            if self._fs is None:
                self._fs = self._make()
            return self._fs

    def own(self, name: str, make: Callable[[], T]) -> T:
        """Something that belongs to this process and connection, made on first use. A forked child starts without."""
        self._renew_after_fork()
        with self._lock:
            if name not in self._own:
                self._own[name] = make()
            return cast("T", self._own[name])

    @property
    def appenders(self) -> dict[str, Any]:
        """What this process appends to: an object_appending.Appender by key."""
        return self.own("appenders", dict)

    def _renew_after_fork(self) -> None:
        """In a new process, forget the parent's lock, which may be held, its loop, its sockets and its buffers."""
        if self._pid != os.getpid():
            self._lock, self._fs, self._own, self._pid = threading.RLock(), None, {}, os.getpid()

    def where(self, key: str) -> str:
        """The URL of an object, for messages."""
        return key if "://" in key else f"{self.protocol}://{key.lstrip('/')}"

    def call(
        self,
        doing: str,
        key: str,
        method: Callable[..., Any] | str,
        *args: Any,
        size_bytes: int = 0,
        check: Callable[[Any], bool] | None = None,
        limit_s: float | None = None,
        **kwargs: Any,
    ) -> Any:
        """One request, sent again after failures that may pass. `doing` and `key` are for messages.

        Raises: FileNotFoundError; TakenError; OutOfRangeError; ConfigError for what is the user's to mend and never
        worked; StorageError for everything else, at the latest after the limit.
        """
        retries = _Retries(self, f"{doing} {self.where(key)}", limit_s or self.limits.retry_s)
        while True:
            retries.tries += 1
            timeout_s = min(self.limits.timeout_s + size_bytes / 2**20, retries.left_s)
            try:
                result = self._once(method, args, kwargs, timeout_s)
                if check and not check(result):
                    raise TruncatedError(f"fewer bytes than expected of {self.where(key)}")  # noqa: TRY301
            except Exception as error:  # noqa: BLE001 - every driver has errors of its own; all are judged and raised
                retries.wait_or_raise(error)
                continue
            if not self.touched:
                driver_randomness.keep_apart()  # again, for what is loaded with the first request
            self.touched = True
            return result

    def _once(self, method: Callable[..., Any] | str, args: Any, kwargs: Any, timeout_s: float) -> Any:
        fs = self.fs
        if callable(method):
            return method(*args, **kwargs)
        if not fs.async_impl:
            with self._lock:  # file systems without a loop, memory among them, are not made for several threads
                return getattr(fs, method)(*args, **kwargs)
        from fsspec.asyn import sync

        fs.invalidate_cache()
        return sync(fs.loop, getattr(fs, f"_{method}"), *args, timeout=timeout_s, **kwargs)

    def _make(self) -> Any:
        cls = driver(self.protocol)
        options = dict(self.driver_options)
        if self.is_s3:
            config = {"retries": {"mode": "standard", "total_max_attempts": 1}, "max_pool_connections": 32}
            options["config_kwargs"] = config | options.get("config_kwargs", {})
        try:
            fs = cls(**options, use_listings_cache=False, skip_instance_cache=True)
        except (TypeError, ValueError, KeyError, ImportError) as error:
            raise ConfigError(
                f"cannot use {self.protocol}:// with these storage_options: {object_errors.in_words(error)}"
            ) from error
        if self.is_s3:
            fs.retries = 1
        driver_randomness.keep_apart()
        return fs

    def endpoint(self) -> str:
        """Where requests go, for messages; empty if it is not known."""
        client = getattr(self._fs, "_s3", None)
        return str(getattr(getattr(client, "meta", None), "endpoint_url", "") or "")


class _Retries:
    """The retries of one request: when to try again, and what to say at the end."""

    def __init__(self, connection: Connection, what: str, limit_s: float) -> None:
        self.connection = connection
        self.what = what
        self.limit_s = limit_s
        self.started = time.monotonic()
        self.tries = 0
        self.earlier: Exception | None = None

    @property
    def left_s(self) -> float:
        return max(0.05, self.limit_s - (time.monotonic() - self.started))

    def wait_or_raise(self, error: Exception) -> None:
        """Return when it is time for another try; raise what the failure means otherwise."""
        self._raise_if_final(error)
        if self.earlier is not None and isinstance(error, TimeoutError):
            error = self.earlier  # says more than that the time was up
        self.earlier = error
        first_touch = object_errors.is_unreachable(error) and not self.connection.touched
        limit_s = min(self.limit_s, _FIRST_TOUCH_S) if first_touch else self.limit_s
        wait_s = pause_s(self.tries)
        if time.monotonic() - self.started + wait_s >= limit_s:
            hint = "; check the endpoint (AWS_ENDPOINT_URL) and the network" if first_touch else ""
            raise StorageError(self._text(error, hint)) from error
        logger.debug("%s: %s; trying again in %.1f s", self.what, object_errors.in_words(error), wait_s)
        time.sleep(wait_s)

    def _raise_if_final(self, error: Exception) -> None:
        if isinstance(error, (ConfigError, StorageError)):
            raise error
        code, status = object_errors.code_of(error), object_errors.status_of(error)
        if isinstance(error, FileExistsError) or code in ("PreconditionFailed", "412") or status == 412:
            raise TakenError(self.what.partition(" ")[2], self.tries) from error
        if status == _HTTP_RANGE or code == "InvalidRange":
            raise OutOfRangeError(self.what) from error
        hint = object_errors.is_users_to_mend(error)
        if hint:
            kind = StorageError if self.connection.touched else ConfigError
            raise kind(self._text(error, f"; {hint}")) from error
        if isinstance(error, FileNotFoundError):
            raise error
        if isinstance(error, (TypeError, ValueError)) and not self.connection.touched:
            raise ConfigError(self._text(error, "; check `storage_options:`")) from error
        if not object_errors.is_transient(error):
            raise StorageError(self._text(error, "")) from error

    def _text(self, error: Exception, hint: str) -> str:
        endpoint = self.connection.endpoint()
        at = f" at {endpoint}" if endpoint else ""
        seconds = time.monotonic() - self.started
        tried = f"; tried {self.tries} times in {seconds:.0f} s" if self.tries > 1 else ""
        return object_errors.without_secrets(f"cannot {self.what}{at}: {object_errors.in_words(error)}{tried}{hint}")


def pause_s(tries: int) -> float:
    """Seconds before another try after so many that failed."""
    return _JITTER.uniform(0.05, min(_LONGEST_PAUSE_S, 0.1 * 2 ** min(tries, 10)))


def driver(protocol: str) -> Any:
    """The fsspec class for a protocol. Raises: ConfigError that names what to install."""
    import fsspec

    try:
        return fsspec.get_filesystem_class(protocol)
    except ImportError:
        extra = EXTRAS.get(protocol)
        what = f"pip install 'torchrelay[{extra}]'" if extra else "install its fsspec driver"
        raise ConfigError(f"storage {protocol}:// needs a driver that is not installed: {what}") from None
    except ValueError:
        raise ConfigError(
            f"storage {protocol}://: fsspec knows no such protocol; use a folder, s3://, gs://, az:// or memory://"
        ) from None


_connections: dict[tuple[str, str], Connection] = {}


def connect(url: str, options: dict[str, Json]) -> tuple[Connection, str]:
    """The connection for a URL, and the key that the URL stands for in it. Equal options share one connection.

    Raises: ConfigError for a missing driver, an unknown protocol, or secrets among the options.
    """
    import json

    protocol = url.partition("://")[0]
    if "::" in protocol:
        raise ConfigError(f"storage {url!r}: chained URLs are not supported; name the storage itself")
    cls = driver(protocol)
    key = str(cls._strip_protocol(url)).rstrip("/")
    if not key and protocol != "memory":
        raise ConfigError(f"storage {url!r} names no bucket: write {protocol}://BUCKET/FOLDER")
    merged = {**cls._get_kwargs_from_urls(url), **options}
    name = (protocol, json.dumps(merged, sort_keys=True, default=str))
    found = _connections.get(name) or _connections.setdefault(name, Connection(protocol, merged))
    return found, key
