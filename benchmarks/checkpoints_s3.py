"""The same as checkpoints.py, on S3.

The server that the tests start, moto, stores at the speed of one Python process, which is all that both sides then wait
for. So the figures in docs/benchmarks.md are measured on Ceph, which holds objects in memory and shares the cores:

    tests/s3/on_ceph.sh sid python benchmarks/run.py checkpoints_s3

torch.save is left out above 1 GB: its one object is more than moto answers within the driver's time limit, and
restoring it takes five times the state in each rank.
"""

import sys
from collections.abc import Iterator

from checkpoints import LARGE_MB, LARGE_TRIALS, SIDES, SIZES, Place, beside, row_of_beside
from object_server import S3Server, s3_server
from tools import Row


def rows(trials: int) -> list[Row]:
    """All sizes on S3."""
    made: list[Row] = []
    with s3_server() as server:
        for megabytes in SIZES:
            large = megabytes > LARGE_MB
            sides = ("torchrelay", "dcp", "dcp_async") if large else tuple(SIDES)
            restores, restored = (1, 1) if large else (3, None)
            name, url = f"S3 of {server.name}", f"s3://{server.bucket}/saved"
            place = Place(name, megabytes, trials, sides, 3, url, server.environment, restores, restored, server.clear)
            made += place.rows()
            sys.stderr.write(f"{megabytes} MB done\n")
        made += steps_beside(server)
    return made


def steps_beside(server: S3Server) -> Iterator[Row]:
    """How much slower steps are while a save is under way. The server has the other core, so there is none to spare."""
    for megabytes in SIZES:
        texts = []
        for trial in range(LARGE_TRIALS):
            texts.append(beside(megabytes, 1, f"s3://{server.bucket}/beside-{trial}", 5, server.environment))
            server.clear()
        yield row_of_beside(f"{megabytes} MB, S3 of {server.name}", 1, 0, texts)
