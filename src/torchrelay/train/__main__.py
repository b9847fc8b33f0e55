"""`python -m torchrelay.train`, in each rank: the built-in trainer on the run that the environment names."""

from torchrelay import presence
from torchrelay.train import startup


def main() -> None:
    """Train. A failure ends the process with its exit code."""
    startup.begin()
    presence.enter()  # before the imports that take seconds, so that the rank can be stopped while they run
    import logging

    from torchrelay.run import Run
    from torchrelay.train.loop import train

    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    with Run.attach() as run:
        train(run)


if __name__ == "__main__":
    main()
