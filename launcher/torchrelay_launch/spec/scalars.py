"""What a scalar is in YAML 1.1, and the traps in that: values that are not what they look like.

PyYAML reads `3e-4` as text, `12:00:00` as 43200, `no` as false, `3.10` as 3.1 and `010` as 8. A spec refuses each with
what to write instead, unless it is clear what was meant: text, where text is wanted and YAML reads text.
"""

import re
from typing import Literal, NamedTuple

from torchrelay_launch.spec.places import Place

Kind = Literal["null", "bool", "int", "float", "str", "timestamp", "merge"]
Wanted = Literal["text", "number", "truth", "any"]

# Patterns are compiled only when a text may match one, since that takes longer than reading a whole spec.
_EXPONENT = r"([-+]?)([0-9][0-9_]*(?:\.[0-9_]*)?|\.[0-9][0-9_]*)[eE]([-+]?)([0-9]+)"
_SEXAGESIMAL = r"[-+]?[0-9][0-9_]*(?::[0-5]?[0-9])+(?:\.[0-9_]*)?"
_LEADING_ZERO = r"[-+]?0o?[0-9_]+"
_TRUE = {"true", "yes", "on"}
_LARGEST = 2**63
_LONGEST_NUMBER = 64


class Scalar(NamedTuple):
    """A value without parts. `plain`: written without quotes, so that YAML decides what it is."""

    text: str
    kind: Kind
    plain: bool
    place: Place

    @property
    def empty(self) -> bool:
        """Whether nothing at all is written."""
        return self.plain and not self.text

    @property
    def null(self) -> bool:
        return self.kind == "null"


class Trap(NamedTuple):
    """Why a scalar is refused, and what to write."""

    text: str
    hint: str


def trap(scalar: Scalar, wanted: Wanted) -> Trap | None:
    """The trap that this scalar walks into where `wanted` is expected."""
    if not scalar.plain:
        return None
    looks_wrong = _number_as_text(scalar) if scalar.kind == "str" and wanted in {"number", "any"} else None
    return looks_wrong or _other_number(scalar) or _other_kind(scalar, wanted)


def _number_as_text(scalar: Scalar) -> Trap | None:
    if not scalar.text.lstrip("+-.")[:1].isdigit():
        return None
    if match := re.fullmatch(_EXPONENT, scalar.text):
        sign, mantissa, exponent_sign, exponent = match.groups()
        mantissa = mantissa if "." in mantissa else f"{mantissa}.0"
        number = f"{sign}{mantissa}e{exponent_sign or '+'}{exponent}"
        return Trap(f"`{_short(scalar)}` is text in YAML 1.1, not a number", f"write {number}")
    if re.fullmatch(_LEADING_ZERO, scalar.text):
        digits = re.sub(r"[^1-9]*", "", scalar.text, count=1) or "0"
        return Trap(
            f"`{_short(scalar)}` is text in YAML 1.1, not a number", f'write {digits}, or "{scalar.text}" for text'
        )
    return None


def _other_number(scalar: Scalar) -> Trap | None:
    """Numbers and dates that hardly anybody means, wherever they stand."""
    if scalar.kind in {"int", "float"} and _is_sexagesimal(scalar.text):
        seconds = sexagesimal(scalar.text)
        what = f"`{_short(scalar)}` is the number {seconds:g} in YAML 1.1 (base 60)"
        return Trap(what, f'write {duration_text(seconds)} for a duration, or "{_short(scalar)}" for text')
    digits = scalar.text.lstrip("+-")
    if scalar.kind == "int" and digits[:1] == "0" and digits.isdecimal() and digits.strip("0_") != digits != "0":
        text = _short(scalar)
        value = number(scalar)
        what = f"`{text}` is the octal number {value} in YAML 1.1"
        return Trap(what, f'write {digits.lstrip("0") or 0} or {value}, or "{text}" for text')
    if scalar.kind == "timestamp":
        return Trap(f"`{_short(scalar)}` is a date in YAML", f'write "{_short(scalar)}"')
    return None


def _other_kind(scalar: Scalar, wanted: Wanted) -> Trap | None:
    text = _short(scalar)
    if scalar.kind == "bool" and scalar.text.lower() not in {"true", "false"} and wanted in {"text", "any"}:
        value = "true" if truth(scalar) else "false"
        instead = f'write "{text}"' if wanted == "text" else f'write {value}, or "{text}" for text'
        return Trap(f"`{text}` is the truth value {value} in YAML 1.1, not text", instead)
    if wanted == "text" and scalar.kind == "bool":
        return Trap(f"`{text}` is a truth value, not text", f'write "{text}"')
    if wanted == "text" and scalar.kind in {"int", "float"}:
        value = str(number(scalar))
        reads = f"the number {value} in YAML" if value != scalar.text else "a number"
        return Trap(f"`{text}` is {reads}, not text", f'write "{text}"')
    if scalar.kind == "float" and scalar.text[-1:] in "fFnN":
        return Trap(f"`{text}` is not a finite number", "write a finite number")
    if wanted in {"number", "any"} and scalar.kind in {"int", "float"} and number(scalar) is None:
        return Trap(f"`{text}` does not make a number of 64 bits", "write a smaller one, or quotes for text")
    return None


def truth(scalar: Scalar) -> bool:
    """The value of a scalar of kind bool."""
    return scalar.text.lower() in _TRUE


def number(scalar: Scalar) -> int | float | None:
    """The value of a scalar of kind int or float; None if it does not fit 64 bits, or is none, as `0x_`."""
    text = scalar.text.replace("_", "")
    if len(text) > _LONGEST_NUMBER:
        return None
    if _is_sexagesimal(text):
        return sexagesimal(text)
    if scalar.kind == "float":
        value = float(text.lower().replace(".inf", "inf").replace(".nan", "nan"))
        return value if abs(value) < float("inf") else None
    return _integer(text)


def _integer(text: str) -> int | None:
    digits = text.lstrip("+-")
    octal = digits.startswith("0") and digits.isdigit() and len(digits) > 1
    try:
        value = int(digits, 8) if octal else int(digits, 0)
    except ValueError:
        return None
    value = -value if text.startswith("-") else value
    return value if -_LARGEST <= value < _LARGEST else None


def _is_sexagesimal(text: str) -> bool:
    return ":" in text and re.fullmatch(_SEXAGESIMAL, text) is not None


def sexagesimal(text: str) -> float:
    """`1:30` is 90, and `12:00:00` is 43200."""
    total = 0.0
    for part in text.replace("_", "").lstrip("+-").split(":"):
        total = total * 60 + float(part)
    return -total if text.startswith("-") else total


def duration_text(seconds: float) -> str:
    """A time as a spec writes it."""
    from torchrelay.contract.units import Duration

    return str(Duration(abs(seconds)))


def _short(scalar: Scalar) -> str:
    return scalar.text if len(scalar.text) <= 40 else f"{scalar.text[:37]}..."
