"""A resumable DDP script for the Slurm benchmark: rank 1 writes `pid time step` of each step to a file, for ever."""

import os
import sys
import time
from pathlib import Path

import torch
from torch.nn.parallel import DistributedDataParallel

import torchrelay

with torchrelay.Run.attach() as run, Path(sys.argv[1]).open("a") as file:
    model = DistributedDataParallel(torch.nn.Linear(100, 10))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.001)
    run.track(model=model, optimizer=optimizer)
    for step in run.steps(1_000_000):
        optimizer.zero_grad()
        model(torch.randn(8, 100)).sum().backward()
        optimizer.step()
        if run.rank == 1:
            file.write(f"{os.getpid()} {time.time()} {step}\n")
            file.flush()
        time.sleep(0.02)
