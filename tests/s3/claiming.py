"""A process that tries to create the same objects as others do: claiming.py URL START_TIME NUMBER."""

import sys
import time

from torchrelay.contract.storage import open_storage

url, start, number = sys.argv[1], float(sys.argv[2]), sys.argv[3]
storage = open_storage(url)
storage.size("warm")
time.sleep(max(0.0, start - time.time()))
for turn in range(5):
    try:
        storage.create(f"claim-{turn}", b"the same content")
    except FileExistsError:
        continue
    storage.create(f"won-{turn}/{number}", b"")
