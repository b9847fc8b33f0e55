"""Command-line arguments: a parser that suggests the nearest name, and the options that several verbs share."""

import argparse
from collections.abc import Iterable
from typing import Any, NoReturn

from torchrelay.contract.errors import ConfigError

_WIDTH = 100
BACKENDS = ("local", "slurm", "kubernetes")


class Parser(argparse.ArgumentParser):
    """An ArgumentParser whose mistakes are ConfigErrors with a suggestion."""

    def __init__(self, **kwargs: Any) -> None:
        kwargs = {"allow_abbrev": False, "formatter_class": HelpFormatter, **kwargs}
        super().__init__(**kwargs)
        self._positionals.title = "arguments"

    def parse_strictly(self, argv: list[str]) -> argparse.Namespace:
        """The arguments of a whole command line. Raises: ConfigError for whatever does not belong there."""
        args, extra = self.parse_known_args(argv)
        if extra:
            option = extra[0].split("=")[0]
            if option.startswith("-"):
                raise self._mistake(f"there is no option {option}{nearest(option, option_strings(self))}")
            raise self._mistake(f"unexpected argument {extra[0]!r}")
        return args

    def error(self, message: str) -> NoReturn:
        raise self._mistake(message)

    def _mistake(self, message: str) -> ConfigError:
        return ConfigError(f"{message}; see `{self.prog} --help`")

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is not None and value not in action.choices:
            choices = [str(choice) for choice in action.choices]
            text = f"{value!r} is none of {', '.join(choices)}{nearest(str(value), choices)}"
            raise argparse.ArgumentError(action, text)


class HelpFormatter(argparse.RawDescriptionHelpFormatter):
    """Aligned help that shows defaults, and looks the same in every version of Python."""

    def __init__(self, prog: str, **kwargs: Any) -> None:
        super().__init__(prog, **{"max_help_position": 26, "width": _WIDTH, **kwargs})

    def _get_help_string(self, action: argparse.Action) -> str:
        text = action.help or ""
        shown = action.option_strings and action.default not in (None, False, argparse.SUPPRESS, [])
        return f"{text} (default: %(default)s)" if shown and "default" not in text else text

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        """A description is one paragraph, which is wrapped; what has lines of its own, as examples have, keeps them."""
        if "\n" in text:
            return super()._fill_text(text, width, indent)
        return argparse.HelpFormatter._fill_text(self, text, width, indent)

    def _format_action_invocation(self, action: argparse.Action) -> str:
        if not action.option_strings or action.nargs == 0:
            return super()._format_action_invocation(action)
        value = self._format_args(action, self._get_default_metavar_for_optional(action))
        return f"{', '.join(action.option_strings)} {value}"


def parser_of(verb: str, takes: str, does: str) -> Parser:
    """The parser that a verb's module adds its arguments to."""
    parser = Parser(
        prog=f"torchrelay {verb}", usage=f"torchrelay {verb} {takes} [options]", description=_sentence(does)
    )
    parser.add_argument("-q", "--quiet", action="store_true", help="print results and errors, no notes")
    return parser


def explain(parser: argparse.ArgumentParser, description: str, *examples: str) -> None:
    """Set what a verb's help says above and below its options."""
    parser.description = description
    title = "examples" if len(examples) > 1 else "example"
    parser.epilog = "\n".join([f"{title}:", *(f"  {example}" for example in examples)])


def nearest(name: str, known: Iterable[str]) -> str:
    """`; did you mean ...?`, or nothing when no known name is near."""
    import difflib

    found = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f"; did you mean {found[0]!r}?" if found else ""


def add_job(parser: argparse.ArgumentParser) -> None:
    """JOB, --on, --set and --storage, for verbs that start from a spec."""
    parser.add_argument("job", metavar="JOB", help="the job spec, a YAML file")
    add_on(parser)
    add_set(parser)
    add_storage(parser)


def add_dry_run(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--dry-run", action="store_const", const="client", help="print what would be started, as `render` does"
    )
    parser.add_argument(
        "--dry-run-server",
        dest="dry_run",
        action="store_const",
        const="server",
        help="ask Slurm or Kubernetes whether it would take it; also written --dry-run=server",
    )


# argparse would take the job's name for the value of an option whose value may be left out.
SPELLINGS = {"--dry-run=server": "--dry-run-server", "--dry-run=client": "--dry-run"}


def add_on(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--on", metavar="BACKEND", choices=BACKENDS, help="local, slurm or kubernetes (default: the spec's `backend:`)"
    )


def add_set(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--set",
        metavar="KEY=VALUE",
        action="append",
        default=[],
        dest="overrides",
        help="override a value of the spec, as in train.epochs=2; may be given often",
    )


def add_run(parser: argparse.ArgumentParser) -> None:
    """RUN and --storage, for verbs that act on a run."""
    parser.add_argument("run_name", metavar="RUN", help="a run's URL or path, or its id or the start of it")
    add_storage(parser)


def add_run_or_sweep(parser: argparse.ArgumentParser) -> None:
    """RUN and --storage, for verbs that act on all runs of a sweep too."""
    parser.add_argument(
        "run_name",
        metavar="RUN",
        help="a run's URL or path, or its id or the start of it; or a sweep's, for all its runs",
    )
    add_storage(parser)


def add_storage(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--storage",
        metavar="URL",
        help="where runs are kept (default: $TORCHRELAY_STORAGE, else the spec's `storage:`, else ./runs)",
    )


def add_json(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print JSON")


def at_least(minimum: int) -> Any:
    """A type for arguments that are whole numbers with a least value."""

    def whole_number(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number") from None
        if value < minimum:
            raise argparse.ArgumentTypeError(f"expected at least {minimum}, got {value}")
        return value

    return whole_number


def _sentence(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}."


def option_strings(parser: argparse.ArgumentParser) -> list[str]:
    """All options of a parser and of its sub-commands."""
    found: list[str] = []
    for action in parser._actions:
        found += action.option_strings
        if isinstance(action, argparse._SubParsersAction):
            for child in action.choices.values():
                found += option_strings(child)
    return found
