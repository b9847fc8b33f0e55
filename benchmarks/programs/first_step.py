"""Writes the time of the first optimizer step of a plain DDP script to the file named by its argument."""

import sys
import time
from pathlib import Path

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

dist.init_process_group("gloo")
model = DistributedDataParallel(torch.nn.Linear(100, 10))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
model(torch.randn(8, 100)).sum().backward()
optimizer.step()
if dist.get_rank() == 0:
    Path(sys.argv[1]).write_text(str(time.time()))
dist.barrier()  # or the rank that leaves first aborts the other
dist.destroy_process_group()
