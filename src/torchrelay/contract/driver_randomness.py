"""Keeps fsspec drivers from drawing from Python's `random`, which belongs to the training.

A run's checkpoint holds the state of `random`, and a resumed run must draw what an uninterrupted one would have drawn.
Drivers draw from the same generator when a request fails or a key is renewed, on a thread of their own: botocore for
the pauses of its retries (`retries.standard.ExponentialBackoff`, `retryhandler.delay_exponential`) and each time that
it fetches the key of an instance's role (`utils.InstanceMetadataFetcher`), aiohttp when many wait for a connection,
gcsfs, google.auth and urllib3 for their pauses. None of them lets its caller give another generator. So their modules
get a copy of `random` of their own, with a state of its own. Code that imports `random` within a function is not
reached.
"""

import importlib.util
import random
import sys
from types import ModuleType

DRIVERS = ("aiobotocore", "aiohttp", "azure", "botocore", "gcsfs", "google", "s3fs", "urllib3")
_copy: list[ModuleType] = []


def keep_apart() -> None:
    """Give the modules of drivers that are loaded by now the copy. Cheap enough to be called again for later ones."""
    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] in DRIVERS and getattr(module, "random", None) is random:
            module.random = drivers_random()  # type: ignore[attr-defined]
    standard = sys.modules.get("botocore.retries.standard")
    if standard is not None:  # it has taken the function before anybody could change the module
        init = standard.ExponentialBackoff.__init__
        init.__defaults__ = tuple(_replaced(default) for default in init.__defaults__ or ())


def drivers_random() -> ModuleType:
    """The `random` of the drivers, seeded by the operating system."""
    if not _copy:
        spec = importlib.util.find_spec("random")
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        _copy.append(module)
    return _copy[0]


def _replaced(default: object) -> object:
    return drivers_random().random if default == random.random else default
