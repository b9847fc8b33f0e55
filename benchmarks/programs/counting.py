"""A DDP script for the restart benchmark: writes `pid time step` of rank 1 to a file for ever, one line a step.

Saves nothing and needs no torchrelay: what is measured is how long the ranks are away.
"""

import os
import sys
import time
from pathlib import Path

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

dist.init_process_group("gloo")
model = DistributedDataParallel(torch.nn.Linear(100, 10))
optimizer = torch.optim.SGD(model.parameters(), lr=0.001)
with Path(sys.argv[1]).open("a") as file:
    for step in range(1_000_000):
        optimizer.zero_grad()
        model(torch.randn(8, 100)).sum().backward()
        optimizer.step()
        if dist.get_rank() == 1:
            file.write(f"{os.getpid()} {time.time()} {step}\n")
            file.flush()
        time.sleep(0.02)
