"""ddp_plain.py made resumable; each line that differs is marked NEW. docs/your-own-script.md goes through them."""

import argparse
import time

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

import torchrelay  # NEW


def batch(step: int, rank: int) -> tuple[Tensor, Tensor]:
    """One rank's samples of one step. inputs: (32, 8) float32; targets: (32, 1) float32."""
    generator = torch.Generator().manual_seed(1_000 * step + rank)
    inputs = torch.rand(32, 8, generator=generator)
    return inputs, torch.sin(3 * inputs).sum(dim=1, keepdim=True)


def main(args: argparse.Namespace, run: torchrelay.Run) -> None:  # NEW: the run
    rank, world_size = run.rank, run.world_size  # NEW: the process group is there already
    torch.manual_seed(args.seed + rank)
    model = DistributedDataParallel(nn.Sequential(nn.Linear(8, 64), nn.Tanh(), nn.Dropout(0.1), nn.Linear(64, 1)))
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    run.track(model=model, optimizer=optimizer)  # NEW: what is saved and restored

    for step in run.steps(args.steps):  # NEW: the steps still to do
        inputs, targets = batch(step, rank)
        loss = nn.functional.mse_loss(model(inputs), targets)
        run.check_finite(loss)  # NEW, if wanted: stop at a NaN
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        run.log({"loss": loss}, samples=32 * world_size)  # NEW: in place of print
        time.sleep(args.sleep)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--sleep", type=float, default=0.0, help="seconds to wait after each step")
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    with torchrelay.Run.attach(log_every=50) as current:  # NEW: group, device, signals, claim, and a clean end
        main(arguments, current)
