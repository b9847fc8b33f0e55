"""The command line in folders of the tests' own."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from relay import Relay, with_programs


@pytest.fixture(scope="session")
def make_relay() -> Iterator[Callable[[Path], Relay]]:
    """Makes the command line in a folder with the test programs; in the end kills what failed tests left."""
    made: list[Relay] = []

    def make(parent: Path) -> Relay:
        made.append(Relay(with_programs(parent / "it's a folder")))
        return made[-1]

    yield make
    for relay in made:
        relay.kill_what_is_left()


@pytest.fixture
def relay(make_relay: Callable[[Path], Relay], tmp_path: Path) -> Relay:
    """The command line in a fresh folder."""
    return make_relay(tmp_path)
