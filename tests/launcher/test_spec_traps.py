"""Values that YAML reads as something else than what they look like."""

from collections.abc import Callable
from pathlib import Path

import pytest

from torchrelay_launch.spec.reader import SpecErrors, read_spec

Problems = Callable[[str], list[tuple[str, str]]]


@pytest.fixture
def problems_of(tmp_path: Path) -> Problems:
    """Text and hint of every problem of a spec's text."""

    def read(text: str) -> list[tuple[str, str]]:
        path = tmp_path / "job.yaml"
        path.write_text(text)
        try:
            read_spec(str(path))
        except SpecErrors as errors:
            return [(one.text, one.hint) for one in errors.problems]
        return []

    return read


SCRIPT = "name: job\nscript: train.py\n"
ANYTHING = SCRIPT + "slurm: {{extra: {{deep: [{{x: {}}}]}}}}\n"  # where torchrelay does not know what is expected
TEXT = SCRIPT + "env: {{X: {}}}\n"
WHOLE = SCRIPT + "resources: {{procs_per_node: {}}}\n"
NUMBER = (
    "name: job\ntrain: {{task: lm, data: {{train: {{target: a.b}}}}, model: {{target: a.b}}, "
    "optimizer: {{target: a.b}}, global_batch: 8, steps: 1, clip_grad_norm: {}}}\n"
)
TRUTH = NUMBER.replace("clip_grad_norm", "deterministic")


@pytest.mark.parametrize(
    ("where", "value", "said", "hint"),
    [
        (ANYTHING, "3e-4", "`3e-4` is text in YAML 1.1, not a number", "write 3.0e-4"),
        (ANYTHING, "-1.5e5", "`-1.5e5` is text in YAML 1.1, not a number", "write -1.5e+5"),
        (NUMBER, "1e5", "`1e5` is text in YAML 1.1, not a number", "write 1.0e+5"),
        (ANYTHING, "12:00:00", "`12:00:00` is the number 43200 in YAML 1.1 (base 60)", "write 12h for a duration"),
        (TEXT, "1:30", "`1:30` is the number 90 in YAML 1.1 (base 60)", '"1:30" for text'),
        (ANYTHING, "1:30.5", "`1:30.5` is the number 90.5 in YAML 1.1 (base 60)", "for a duration"),
        (TEXT, "no", "`no` is the truth value false in YAML 1.1, not text", 'write "no"'),
        (TEXT, "On", "`On` is the truth value true in YAML 1.1, not text", 'write "On"'),
        (ANYTHING, "off", "`off` is the truth value false in YAML 1.1, not text", 'write false, or "off" for text'),
        (TEXT, "true", "`true` is a truth value, not text", 'write "true"'),
        (TEXT, "3.10", "`3.10` is the number 3.1 in YAML, not text", 'write "3.10"'),
        (TEXT, "4", "`4` is a number, not text", 'write "4"'),
        (ANYTHING, "010", "`010` is the octal number 8 in YAML 1.1", 'write 10 or 8, or "010" for text'),
        (WHOLE, "010", "`010` is the octal number 8 in YAML 1.1", "write 10 or 8"),
        (ANYTHING, "0o17", "`0o17` is text in YAML 1.1, not a number", '"0o17" for text'),
        (ANYTHING, "09", "`09` is text in YAML 1.1, not a number", 'write 9, or "09" for text'),
        (ANYTHING, "2024-01-01", "`2024-01-01` is a date in YAML", 'write "2024-01-01"'),
        (TEXT, "2024-01-01", "`2024-01-01` is a date in YAML", 'write "2024-01-01"'),
        (ANYTHING, ".inf", "`.inf` is not a finite number", "finite"),
        (NUMBER, ".nan", "`.nan` is not a finite number", "finite"),
        (ANYTHING, "9" * 30, "does not make a number of 64 bits", ""),
        (ANYTHING, "1.0e+400", "does not make a number of 64 bits", ""),
        (ANYTHING, "0x_", "does not make a number of 64 bits", ""),
        (ANYTHING, "", "there is nothing after `x:`", "write a value, or null, or leave the key out"),
        (TEXT, "", "there is nothing after `X:`; expected text", "write text"),
        (TEXT, "null", "expected text, not null", "leave the key out"),
        (NUMBER, "", "there is nothing after `clip_grad_norm:`", "write a number, or null"),
        (TRUTH, "1", "expected true or false, not `1`", ""),
        (TRUTH, '"true"', 'expected true or false, not the text "true"', "without quotes"),
        (WHOLE, "'2'", 'expected a whole number, not the text "2"', "without quotes"),
        (WHOLE, "2.0", "expected a whole number, not `2.0`", "write 2"),
        (WHOLE, "yes", "expected a whole number, not `yes`", ""),
        (WHOLE, "[2]", "expected a whole number, not a list", ""),
    ],
)
def test_traps(problems_of: Problems, where: str, value: str, said: str, hint: str) -> None:
    [(text, shown)] = problems_of(where.format(value))
    assert said in text
    assert hint in shown


@pytest.mark.parametrize(
    ("where", "value"),
    [
        (TEXT, "3e-4"),  # text is wanted and YAML reads text
        (TEXT, '"no"'),
        (TEXT, "'3.10'"),
        (TEXT, "1.2.3"),
        (TEXT, "!!str 010"),
        (ANYTHING, '"12:00:00"'),
        (ANYTHING, "null"),
        (ANYTHING, "false"),
        (ANYTHING, "0"),
        (ANYTHING, "-0x1F"),
        (ANYTHING, "1_000"),
        (ANYTHING, "1.0e-3"),
        (ANYTHING, "a:b"),
        (NUMBER, "3.0e-4"),
        (NUMBER, "1"),
        (NUMBER, "null"),
        (TRUTH, "no"),  # what YAML reads is what is meant
        (TRUTH, "True"),
    ],
)
def test_what_is_no_trap(problems_of: Problems, where: str, value: str) -> None:
    assert problems_of(where.format(value)) == []


@pytest.mark.parametrize(
    ("key", "value", "hint"),
    [
        ("resources.time_limit", "12:00:00", "write 12h"),
        ("resources.time_limit", "3600", "write 3600s"),
        ("resources.time_limit", "2 hours", "write 2h"),
        ("resources.time_limit", "[1]", ""),
        ("resources.memory", "16", "write 16GiB"),
        ("resources.memory", "16g", "write 16GiB"),
        ("resources.memory", "9999999999999999999999999999999999999999999GiB", ""),
        ("resources.nodes", "2-8", "write 2..8"),
        ("resources.nodes", "8..2", ""),
        ("resources.nodes", "0", ""),
        ("resources.nodes", "010", "write 10 or 8"),
        ("checkpoint.every", "200", "write 200 steps"),
        ("checkpoint.every", "5 minutes", "write 5m"),
        ("restarts.grace", "99999d", ""),
    ],
)
def test_units(problems_of: Problems, key: str, value: str, hint: str) -> None:
    section, name = key.split(".")
    [(text, shown)] = problems_of(f"{SCRIPT}{section}: {{{name}: {value}}}\n")
    assert text.startswith(f"{key}: ")
    assert hint in shown


def test_keys_walk_into_traps_too(problems_of: Problems) -> None:
    assert [text for text, _ in problems_of(SCRIPT + 'env: {NO: "1"}')] == [
        "env: `NO` is the truth value false in YAML 1.1, not text"
    ]
    assert [text for text, _ in problems_of(SCRIPT + "slurm: {extra: {1: a}}")] == [
        "slurm.extra: `1` is a number, not text"
    ]
    assert [text for text, _ in problems_of(SCRIPT + "slurm: {extra: {[a]: b}}")] == [
        "a key must be text, not a list or mapping"
    ]
