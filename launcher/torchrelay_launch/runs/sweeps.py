"""A sweep in storage: its folder beside those of its runs, what its points are, and how they stand."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, cast

from torchrelay import __version__
from torchrelay.contract import layout, records
from torchrelay.contract.errors import ConfigError, StorageError
from torchrelay.contract.records import SpecRecord, StopRequest, SweepRecord
from torchrelay.contract.settings import Json, to_json
from torchrelay.contract.storage import Storage, open_storage
from torchrelay_launch.runs.claims import SweepPoint, new_run_id, user_at_host
from torchrelay_launch.runs.locate import open_for, storage_url
from torchrelay_launch.runs.status import RunStatus, at_once, run_status
from torchrelay_launch.spec.point_names import label
from torchrelay_launch.spec.sweep import Point, fields_of


@dataclass(frozen=True)
class Sweep:
    """A sweep and where it lies. `storage`: its own folder."""

    record: SweepRecord
    storage: Storage

    @property
    def sweep_id(self) -> str:
        return self.record.sweep_id

    @property
    def root_url(self) -> str:
        """The storage that the sweep and its runs lie in."""
        return self.storage.url.rpartition("/")[0]

    @property
    def numbers(self) -> range:
        """Numbers of its points."""
        return range(1, len(self.record.points) + 1)

    @property
    def fields(self) -> list[str]:
        """The dotted fields that any point sets, in the order of the spec."""
        return self.record.fields

    def label(self, number: int) -> str:
        """A point in one line."""
        return label(self.record.points[number - 1], self.fields)

    def point(self, number: int) -> SweepPoint:
        return SweepPoint(self.sweep_id, number, self.record.points[number - 1])

    def run_url(self, number: int) -> str:
        """Where the run of a point lies, or will."""
        return f"{self.root_url}/{layout.point_run_id(self.sweep_id, number)}"

    def spec(self, number: int) -> SpecRecord:
        """The spec of a point. Raises: StorageError if it is not there."""
        record = records.read(self.storage, SpecRecord, layout.point_file(number))
        if record is None:
            raise StorageError(f"{self.storage.url}/{layout.point_file(number)} is missing")
        return record

    def source_text(self) -> str:
        """The spec as the user wrote it."""
        try:
            return self.storage.read(layout.SPEC_SOURCE).decode(errors="replace")
        except FileNotFoundError:
            return ""


@dataclass(frozen=True)
class PointStatus:
    """How one point stands. `run` is None while nobody has started it."""

    number: int
    run_id: str
    url: str
    values: dict[str, Json]
    run: RunStatus | None

    @property
    def state(self) -> str:
        return str(self.run.state) if self.run and self.run.attempts else "not started"


def create_sweep(root_url: str, points: Sequence[Point], backend: str, workdir: str, source: str) -> Sweep:
    """Make a sweep under a storage; its runs are made when they are started. Raises: StorageError."""
    job = points[0].job
    record = SweepRecord(
        sweep_id=new_run_id(job.name),
        name=job.name,
        created_at=time.time(),
        torchrelay=__version__,
        backend=backend,
        workdir=workdir,
        fields=fields_of(points),
        points=[point.values for point in points],
    )
    storage = open_for(job, root_url).folder(record.sweep_id)
    storage.create(layout.SPEC_SOURCE, source.encode())

    def write(point: Point) -> None:
        spec = cast("dict[str, Json]", to_json(point.job))
        storage.create(layout.point_file(point.number), records.dump(SpecRecord(spec, point.sources)))

    at_once(storage, write, points)
    storage.create(layout.SWEEP_RECORD, records.dump(record))  # last: a folder without it is no sweep
    return Sweep(record, storage)


def read_sweep(storage: Storage) -> Sweep | None:
    """The sweep that this folder holds, if it does. Raises: StorageError."""
    record = records.read(storage, SweepRecord, layout.SWEEP_RECORD)
    return None if record is None else Sweep(record, storage)


def look_for_sweep(text: str, storage_option: str | None = None) -> Sweep | None:
    """The sweep that a URL, a path, an id or the unique start of one names; None if it names no sweep.

    The start of an id names a sweep if everything that starts so is the sweep's.
    """
    if not text:
        return None
    direct = read_sweep(open_storage(storage_url(text)))
    if direct is not None or "/" in text:
        return direct
    root = open_storage(storage_url(storage_option))
    starting = [name for name in root.list("") if name.startswith(text)]
    first = min(starting, default=None, key=len)
    if first is None or any(name != first and not name.startswith(f"{first}-") for name in starting):
        return None
    return read_sweep(root.folder(first))


def find_sweep(text: str, storage_option: str | None = None) -> Sweep:
    """The sweep that this names. Raises: ConfigError, with those that there are, if there is none."""
    found = look_for_sweep(text, storage_option)
    if found is not None:
        return found
    root = open_storage(storage_url(storage_option))
    there = [name for name in root.list("") if root.size(f"{name}/{layout.SWEEP_RECORD}") is not None]
    from difflib import get_close_matches

    near = get_close_matches(text, there, n=3, cutoff=0.5) or sorted(there)[-3:]
    known = f"there is: {', '.join(near)}" if near else "it holds no sweep at all"
    raise ConfigError(f"there is no sweep {text!r} in {root.url} ({known}); name another storage with --storage")


def sweep_status(sweep: Sweep) -> list[PointStatus]:
    """How each point stands, in the order of the spec. Raises: StorageError."""

    def look(number: int) -> PointStatus:
        url = sweep.run_url(number)
        storage = open_storage(url)
        run = run_status(storage) if storage.size(layout.RUN_RECORD) is not None else None
        return PointStatus(number, url.rpartition("/")[2], url, sweep.record.points[number - 1], run)

    return at_once(sweep.storage, look, sweep.numbers)


def ask_to_start_no_more(sweep: Sweep, kind: Literal["stop", "cancel"]) -> None:
    """Tell whoever starts the sweep's points one after another. Raises: StorageError."""
    request = StopRequest(kind, time.time(), user_at_host())
    sweep.storage.replace(layout.SWEEP_STOP, records.dump(request))


def last_request(sweep: Sweep) -> StopRequest | None:
    """Who asked last that no further point is started, if anybody did."""
    return records.read(sweep.storage, StopRequest, layout.SWEEP_STOP)
