"""The same as checkpoints.py, on S3: the server that the tests start, which stores at the speed of one Python process.

So the ratios say what is sent and waited for, not how fast S3 is. One object of 2 GB is more than this server answers
within the driver's time limit, so torch.save is left out there; and a restore takes minutes, so there is one of each.
"""

import sys

from checkpoints import LARGE_MB, SIZES, Place
from object_server import s3_server
from tools import Row


def rows(trials: int) -> list[Row]:
    """All sizes on S3."""
    made: list[Row] = []
    with s3_server() as environment:
        for megabytes in SIZES:
            large = megabytes > LARGE_MB
            sides = ("torchrelay", "dcp") if large else ("torchrelay", "torch_save", "dcp")
            restores, restored = (1, 1) if large else (3, None)
            place = Place("S3", megabytes, trials, sides, 2, "s3://bench/saved", environment, restores, restored)
            made += place.rows()
            sys.stderr.write(f"{megabytes} MB done\n")
    return made
