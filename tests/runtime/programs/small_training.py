"""A linear model with dropout on random data: enough state for a resume to get wrong. Faults on request."""

import argparse
import time
from pathlib import Path

import torch
from torch.nn.parallel import DistributedDataParallel

import torchrelay


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("--progress", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--sleep", type=float, default=0.0)
    parser.add_argument("--name", default="small")
    parser.add_argument("--every")
    parser.add_argument("--fault", default="", help="nan, raise or exit, and @rank:step, say nan@1:20")
    parser.add_argument("--evaluate", action="store_true", help="loop on should_stop at step 10 for ever")
    return parser.parse_args()


def fault(args: argparse.Namespace, rank: int, step: int) -> str:
    kind, _, where = args.fault.partition("@")
    return kind if where == f"{rank}:{step}" else ""


def main(args: argparse.Namespace) -> None:
    with torchrelay.Run.attach(name=args.name, storage="runs", save_every=args.every, log_every=5) as run:
        torch.manual_seed(7 + run.rank)
        model = DistributedDataParallel(torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.Dropout(0.5)))
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
        run.track(model=model, optimizer=optimizer)
        for step in run.steps(args.steps):
            kind = fault(args, run.rank, step)
            if kind == "raise":
                raise ValueError("a mistake of the user's")
            if kind == "exit":
                raise SystemExit(3)
            loss = model(torch.randn(4, 8)).square().mean() * (float("nan") if kind == "nan" else 1.0)
            run.check_finite(loss)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            run.log({"loss": loss, "lr": 0.01}, samples=8)
            if step % 20 == 19:
                run.evaluated({"val/loss": 1.0 / (step + 1)})
            args.progress.joinpath(f"step-{run.rank}").write_text(str(step + 1))
            while args.evaluate and step == 10 and not run.should_stop():
                time.sleep(0.001)
            time.sleep(args.sleep)
    print("after the run")


main(arguments())
