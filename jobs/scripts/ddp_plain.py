"""A regression trained with DistributedDataParallel, as one writes it for torchrun. Knows nothing of torchrelay."""

import argparse
import time

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel


def batch(step: int, rank: int) -> tuple[Tensor, Tensor]:
    """One rank's samples of one step. inputs: (32, 8) float32; targets: (32, 1) float32."""
    generator = torch.Generator().manual_seed(1_000 * step + rank)
    inputs = torch.rand(32, 8, generator=generator)
    return inputs, torch.sin(3 * inputs).sum(dim=1, keepdim=True)


def main(args: argparse.Namespace) -> None:
    dist.init_process_group("gloo")
    rank, world_size = dist.get_rank(), dist.get_world_size()
    torch.manual_seed(args.seed + rank)
    model = DistributedDataParallel(nn.Sequential(nn.Linear(8, 64), nn.Tanh(), nn.Dropout(0.1), nn.Linear(64, 1)))
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)

    for step in range(args.steps):
        inputs, targets = batch(step, rank)
        loss = nn.functional.mse_loss(model(inputs), targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if rank == 0 and (step + 1) % 50 == 0:
            print(f"step {step + 1}: loss {loss.item():.4f}", flush=True)
        time.sleep(args.sleep)

    if rank == 0:
        print(f"trained on {world_size} ranks, last loss {loss.item():.4f}", flush=True)
    dist.destroy_process_group()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--sleep", type=float, default=0.0, help="seconds to wait after each step")
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    main(arguments)
