"""What ranks print, made fit for a terminal or a file."""

import re

_CONTROL_SEQUENCE = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?|[@-Z\\^_])")
_COLOUR = re.compile(r"\x1b\[[0-9;]*m\Z")
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1a\x1c-\x1f\x7f]")


def clean(line: str, *, colour: bool = False) -> str:
    """A log line without what moves the cursor; of a bar that redrew itself, the last state. Colours stay if wanted."""
    if line.isprintable():
        return line
    prefix, carriage_return, rest = line.rstrip("\r").partition("\r")
    if carriage_return:
        head = prefix[: prefix.find("] ") + 2] if prefix.startswith("[node ") else ""
        line = head + rest.rsplit("\r", 1)[-1]
    line = _CONTROL_SEQUENCE.sub(lambda found: found[0] if colour and _COLOUR.match(found[0]) else "", line)
    line = _CONTROL.sub("", line)
    return line if colour else line.replace("\x1b", "")
