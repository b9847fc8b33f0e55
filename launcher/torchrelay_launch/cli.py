"""The command line: `torchrelay VERB ...`.

Help must come at once, so only the errors and the table of verbs are imported here; a verb's own module is imported
when it is chosen.
Results go to stdout, everything else to stderr. Mistakes in the command line are configuration: exit code 78.
"""

import importlib
import os
import sys
from typing import TYPE_CHECKING

from torchrelay.contract.errors import ConfigError, TorchrelayError
from torchrelay.contract.exit_codes import ExitCode
from torchrelay_launch.verbs import GROUPS, VERBS

if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Callable

INTERRUPTED = 130  # 128 + SIGINT, as shells have it
PIPE_CLOSED = 141  # 128 + SIGPIPE


def main(argv: list[str] | None = None) -> int:
    """Do what the command line says and return the exit code; no exception leaves."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # logs may hold bytes that a terminal cannot show
    try:
        code = _dispatch(sys.argv[1:] if argv is None else argv)
        sys.stdout.flush()
    except TorchrelayError as error:
        return _explain(error)
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        return _close_stdout()
    except Exception as error:  # noqa: BLE001 - the last resort, which says so
        return _report_bug(error)
    return code


def overview() -> str:
    """What `torchrelay --help` prints."""
    lines = [
        "torchrelay: one YAML job spec, any cluster, and training that outlives its machines",
        "",
        "usage: torchrelay VERB [options]",
    ]
    for title, verbs in GROUPS:
        lines += ["", f"{title}:"]
        lines += [f"  {f'{verb} {VERBS[verb][0]}':<26}{VERBS[verb][1]}" for verb in verbs]
    lines += [
        "",
        "JOB is a YAML file. RUN is a run's URL or path, or the start of its id. `torchrelay VERB --help` says more.",
        "",
        "example:",
        "  torchrelay run jobs/digits.yaml --set train.epochs=2",
    ]
    return "\n".join(lines)


def _dispatch(argv: list[str]) -> int:
    if not argv or argv[0] in ("-h", "--help") or argv == ["help"]:
        print(overview())  # noqa: T201 - this is the result
        return 0
    if argv[0] in ("--version", "-V"):
        from torchrelay import __version__

        print(f"torchrelay {__version__}")  # noqa: T201 - this is the result
        return 0
    try:
        act, args = parse([argv[1], "--help"] if argv[0] == "help" else argv)
    except SystemExit as end:  # argparse ends the process after printing help
        return int(end.code or 0)
    return act(args)


def parse(argv: list[str]) -> "tuple[Callable[[Namespace], int], Namespace]":
    """The function that does what a verb and its arguments say, and what to call it with.

    Raises: ConfigError for a verb, an option or a value that there is not; SystemExit after printing a verb's help.
    """
    verb, rest = argv[0], argv[1:]
    if verb not in VERBS:
        raise ConfigError(_unknown_verb(verb))
    module = importlib.import_module(f"torchrelay_launch.commands.{verb}")
    from torchrelay_launch.arguments import SPELLINGS, parser_of

    parser = parser_of(verb, *VERBS[verb])
    module.add_arguments(parser)
    return module.run, parser.parse_strictly([SPELLINGS.get(word, word) for word in rest])


def _unknown_verb(verb: str) -> str:
    if verb.startswith("-"):
        return f"options come after the verb, as in `torchrelay run JOB {verb}`; `torchrelay --help` lists the verbs"
    from torchrelay_launch.arguments import nearest

    return f"there is no verb {verb!r}{nearest(verb, VERBS)}; `torchrelay --help` lists them"


def _explain(error: TorchrelayError) -> int:
    from torchrelay_launch.display.style import colourful, paint

    report = getattr(error, "report", None)  # of a spec: every mistake with its line
    text = report(colour=colourful(sys.stderr)) if report else f"{paint('error:', 'red', sys.stderr)} {error}"
    print(text, file=sys.stderr)  # noqa: T201
    return int(error.exit_code)


def _close_stdout() -> int:
    """Whoever read our output has enough. Without this, Python would complain when it flushes at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return PIPE_CLOSED


def _report_bug(error: Exception) -> int:
    import traceback

    traceback.print_exception(error)
    print(  # noqa: T201
        f"error: {type(error).__name__}: {error}\n"
        "This is a mistake in torchrelay, not in your job. Please report it with the lines above.",
        file=sys.stderr,
    )
    return int(ExitCode.FAILED)


if __name__ == "__main__":
    sys.exit(main())
