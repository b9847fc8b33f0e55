"""`python -m torchrelay_launch`: the command line, or with `node` first the supervisor of one node."""

import sys


def main() -> int:
    if sys.argv[1:2] == ["node"]:
        from torchrelay_launch.node import main as supervise

        return supervise(sys.argv[2:])
    from torchrelay_launch.cli import main as command_line

    return command_line()


if __name__ == "__main__":
    sys.exit(main())
