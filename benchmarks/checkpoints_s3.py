"""The same as checkpoints.py, on S3: the server that the tests start, which stores at the speed of one Python process.

So the ratios say what is sent and waited for, not how fast S3 is. One object of 2 GB is more than this server answers
within the driver's time limit, so torch.save is left out there, and what is left is measured once.
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
            times, restores = (1, 1) if large else (trials, 3)
            made += Place("S3", megabytes, times, sides, 2, "s3://bench/saved", environment, restores).rows()
            sys.stderr.write(f"{megabytes} MB done\n")
    return made
