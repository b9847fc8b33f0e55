"""Credentials of a kubeconfig, and what the official client says of them only in its log.

A login by a command (`exec`, an auth provider) that fails is no error to the client: it logs why and goes on with no
credentials, or with those that have expired.
"""

import contextlib
import logging
from collections.abc import Iterator
from typing import Any

from torchrelay_launch.backends.kubernetes.refusals import LoginError


class _Kept(logging.Handler):
    def __init__(self, said: list[str]) -> None:
        super().__init__(logging.ERROR)
        self._said = said

    def emit(self, record: logging.LogRecord) -> None:
        self._said.append(" ".join(record.getMessage().split()))


@contextlib.contextmanager
def heard() -> Iterator[list[str]]:
    """What the client logs as an error meanwhile: by the root logger, which would be set up to print it otherwise."""
    said: list[str] = []
    handler = _Kept(said)
    logging.getLogger().addHandler(handler)
    try:
        yield said
    finally:
        logging.getLogger().removeHandler(handler)


def anonymous(configuration: Any) -> bool:
    """Whether requests would be made by nobody in particular."""
    return not (configuration.api_key or configuration.cert_file or configuration.username)


def failed(said: list[str]) -> LoginError:
    """What the client said of a login by a command."""
    return LoginError(f"the kubeconfig's way to log in does not work ({said[-1]}); log in to the cluster again")
