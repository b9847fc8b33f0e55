"""How long the command line takes: against Python itself, and against torchx."""

from pathlib import Path

from timing import command_seconds, interleaved, ratio, spread
from tools import PYTHON, ROOT, TORCHRELAY, TORCHX, Row

SPEC = ROOT / "benchmarks" / "jobs" / "two-nodes.yaml"


def rows(trials: int) -> list[Row]:
    """One row for the help, one for a two-node render."""
    script = str(Path("benchmarks") / "programs" / "first_step.py")
    dry_run = [TORCHX, "run", "--dryrun", "-s", "local_cwd", "dist.ddp", "-j", "2x2", "--script", script]
    figures = interleaved(
        trials,
        {
            "python": command_seconds([PYTHON, "-c", "pass"]),
            "help": command_seconds([TORCHRELAY, "--help"]),
            "torchx help": command_seconds([TORCHX, "--help"]),
            "render": command_seconds([TORCHRELAY, "render", str(SPEC)]),
            "torchx dry run": command_seconds(dry_run, cwd=str(ROOT)),
        },
    )
    python = f"`python -c pass` {spread(figures['python'])}"
    return [
        Row(
            "`torchrelay --help`",
            spread(figures["help"]),
            f"{python}; `torchx --help` {spread(figures['torchx help'])}",
            f"{ratio(figures['help'], figures['torchx help']):.2f} of torchx",
            "below 0.10 s, and faster than torchx",
        ),
        Row(
            "`torchrelay render` of two nodes",
            spread(figures["render"]),
            f"{python}; `torchx run --dryrun` {spread(figures['torchx dry run'])}",
            f"{ratio(figures['render'], figures['torchx dry run']):.2f} of torchx",
            "below 0.20 s, and faster than torchx",
        ),
    ]
