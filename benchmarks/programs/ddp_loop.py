"""The baseline of the step time: a DDP loop as one writes it by hand. As a program, prints its seconds per step."""

import sys
import time
from collections.abc import Iterator

import torch
import torch.distributed as dist
from bench_data import GLOBAL_BATCH, Synthetic, perceptron
from torch.nn import functional
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, DistributedSampler

WARM_UP_STEPS, CLIP, LOG_EVERY = 100, 1.0, 10


def steps() -> Iterator[int]:
    """Train without end; yields the number of steps done after each."""
    data = Synthetic()
    sampler = DistributedSampler(data, seed=0)
    loader = DataLoader(data, GLOBAL_BATCH // dist.get_world_size(), sampler=sampler)
    model = DistributedDataParallel(perceptron())
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    step, epoch = 0, 0
    while True:
        sampler.set_epoch(epoch)
        for inputs, labels in loader:
            optimizer.zero_grad(set_to_none=True)
            loss = functional.cross_entropy(model(inputs), labels)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)
            optimizer.step()
            step += 1
            if step % LOG_EVERY == 0 and dist.get_rank() == 0:
                print(f"step {step} loss {loss.item():.4f}", file=sys.stderr)
            yield step
        epoch += 1


def main() -> None:
    """Measure so many steps as the command line says."""
    measured = int(sys.argv[1])
    dist.init_process_group("gloo")
    torch.manual_seed(0)
    start = 0.0
    for step in steps():
        if step == WARM_UP_STEPS:
            start = time.perf_counter()
        if step == WARM_UP_STEPS + measured:
            break
    if dist.get_rank() == 0:
        print(f"seconds_per_step {(time.perf_counter() - start) / measured}")
    dist.barrier()  # or the rank that leaves first aborts the other
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
