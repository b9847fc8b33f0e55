"""The command line with a URL as the home of its runs: what the tests see of a run, they see through storage."""

from pathlib import Path
from typing import Any

import fsspec
from relay import CommandLine, wait_until, with_programs

from torchrelay.contract import events
from torchrelay.contract.storage import Storage, open_storage

LOOK_S = 0.2  # each look costs requests


class RelayOnUrl(CommandLine):
    """`torchrelay` in a fresh folder below `parent` with the test programs."""

    limit_s = 240.0

    def __init__(self, parent: Path, url: str) -> None:
        super().__init__(with_programs(parent / "jobs"), url)

    def run(self) -> Storage:
        """The only run."""
        root = open_storage(self.url)
        (name,) = wait_until("there is a run", lambda: root.list(""), self.limit_s, LOOK_S)
        return root.folder(name)

    def wait_for_step(self, step: int) -> None:
        """Wait until the run's events name this step."""
        run = self.run()

        def there() -> bool:
            return any(int(str(event.get("step") or 0)) >= step for event in events.read_all(run))

        wait_until(f"step {step}", there, self.limit_s, LOOK_S)

    def events(self, kind: str) -> list[dict[str, Any]]:
        """The run's events of one kind, as far as they are in storage."""
        return [event for event in events.read_all(self.run()) if event["event"] == kind]

    def digest(self) -> dict[str, Any]:
        """Step, weights and state of the run's newest checkpoint."""
        return self.digest_of(self.run().url)

    def objects(self) -> dict[str, bytes]:
        """Every object below the storage, with what it holds, segments of logs among them."""
        bucket = fsspec.filesystem(self.url.partition("://")[0], skip_instance_cache=True, use_listings_cache=False)
        return {name: bucket.cat_file(name) for name in bucket.find(self.url)}
