"""torchrelay completion."""

import argparse
import importlib

from torchrelay_launch.arguments import explain, option_strings, parser_of
from torchrelay_launch.verbs import VERBS

_BASH = """\
_torchrelay() {{
  local word=${{COMP_WORDS[COMP_CWORD]}} options="" runs=""
  if [[ $COMP_CWORD -eq 1 ]]; then
    COMPREPLY=($(compgen -W "{verbs}" -- "$word"))
    return
  fi
  case ${{COMP_WORDS[1]}} in
{cases}
  esac
  case ${{COMP_WORDS[1]}} in
    {run_verbs}) runs=$(command ls "${{TORCHRELAY_STORAGE:-runs}}" 2>/dev/null) ;;
  esac
  if [[ $word == -* ]]; then
    COMPREPLY=($(compgen -W "$options" -- "$word"))
  else
    COMPREPLY=($(compgen -W "$runs" -- "$word"))
  fi
}}
complete -o default -F _torchrelay torchrelay
"""
_ZSH = "autoload -U +X bashcompinit && bashcompinit\n"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    explain(
        parser,
        "Print a script that completes verbs, options and run ids, for the shell to read.",
        "source <(torchrelay completion bash)",
        "source <(torchrelay completion zsh)",
        "torchrelay completion fish > ~/.config/fish/completions/torchrelay.fish",
    )
    parser.add_argument("shell", metavar="SHELL", choices=("bash", "zsh", "fish"), help="bash, zsh or fish")


def run(args: argparse.Namespace) -> int:
    options = {verb: _options(verb) for verb in VERBS}
    if args.shell == "fish":
        print(_fish(options))
    else:
        print((_ZSH if args.shell == "zsh" else "") + _bash(options), end="")
    return 0


def _options(verb: str) -> list[str]:
    parser = parser_of(verb, *VERBS[verb])
    importlib.import_module(f"torchrelay_launch.commands.{verb}").add_arguments(parser)
    return sorted(set(option_strings(parser)))


def _bash(options: dict[str, list[str]]) -> str:
    cases = "\n".join(f'    {verb}) options="{" ".join(found)}" ;;' for verb, found in options.items())
    run_verbs = "|".join(verb for verb, (takes, _) in VERBS.items() if "RUN" in takes)
    return _BASH.format(verbs=" ".join(VERBS), cases=cases, run_verbs=run_verbs)


def _fish(options: dict[str, list[str]]) -> str:
    lines = [f"complete -c torchrelay -n __fish_use_subcommand -a {verb} -d '{does}'" for verb, (_, does) in _quoted()]
    for verb, found in options.items():
        for option in found:
            flag = f"-l {option[2:]}" if option.startswith("--") else f"-s {option[1:]}"
            lines.append(f"complete -c torchrelay -n '__fish_seen_subcommand_from {verb}' {flag}")
    return "\n".join(lines)


def _quoted() -> list[tuple[str, tuple[str, str]]]:
    """The verbs, with their descriptions fit for fish's single quotes."""
    return [(verb, (takes, does.replace("'", "\\'"))) for verb, (takes, does) in VERBS.items()]
