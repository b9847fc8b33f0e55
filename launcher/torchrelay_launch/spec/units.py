"""Durations, sizes, node counts and intervals as a spec's scalars, and what people write instead."""

import re
from typing import Any

from torchrelay.contract.units import Duration, Interval, NodeCount, Size
from torchrelay_launch.spec.scalars import Scalar, Trap, duration_text, number, trap

_LONGEST = 40
_LONGEST_TIME_S = 10 * 365 * 86400


def decode_unit(kind: Any, scalar: Scalar) -> tuple[Any, str, str]:
    """The value of a unit, or None with what is wrong and a hint."""
    if scalar.plain and scalar.kind in {"int", "float", "timestamp", "bool"}:
        found = trap(scalar, "number")
        if found is not None or kind is not NodeCount or scalar.kind != "int":
            return None, found.text if found else _says(kind, scalar), _trap_hint(kind, scalar, found)
    text = scalar.text.strip()
    if not text.isascii() or len(text) > _LONGEST:
        return None, _says(kind, scalar), ""
    try:
        value = kind.parse(text)
    except ValueError as error:
        said = str(error) if str(error) != f"expected {kind.EXPECTED}" else _says(kind, scalar)
        return None, said, _hint(kind, scalar)
    if _seconds(value) > _LONGEST_TIME_S:
        return None, "expected at most ten years", ""
    return value, "", ""


def _trap_hint(kind: Any, scalar: Scalar, found: Trap | None) -> str:
    if found is None:
        return _hint(kind, scalar)
    sexagesimal = ":" in scalar.text and scalar.kind != "timestamp"
    return f"write {duration_text(number(scalar) or 0)}" if sexagesimal and kind is Duration else found.hint


def _seconds(value: Any) -> float:
    return float(value if isinstance(value, Duration) else getattr(value, "seconds", None) or 0)


def _says(kind: Any, scalar: Scalar) -> str:
    text = scalar.text if len(scalar.text) <= _LONGEST else f"{scalar.text[:37]}..."
    return f"expected {kind.EXPECTED}, not `{text}`"


def _hint(kind: Any, scalar: Scalar) -> str:
    """What was probably meant: a number without its unit, or a unit spelt another way."""
    text = scalar.text.strip().replace("_", "")
    bare = number(scalar) if scalar.kind in {"int", "float"} else None
    if bare is not None and bare > 0:
        return {Duration: f"write {bare:g}s", Interval: f"write {bare:g} steps", Size: f"write {bare:g}GiB"}.get(
            kind, ""
        )
    if kind is NodeCount and (match := re.fullmatch(r"(\d{1,4})\s*(?:-|:|\.\.\.|to)\s*(\d{1,4})", text)):
        return f"write {match[1]}..{match[2]}"
    match = re.fullmatch(r"(\d{1,9}(?:\.\d{1,3})?)\s*([A-Za-z]{1,8})", text)
    return _respelt(kind, match[1], match[2]) if match else ""


def _respelt(kind: Any, amount: str, unit: str) -> str:
    letter = unit[0].lower()
    if kind is Size and letter in "kmgtb":
        return f"write {amount}B" if letter == "b" else f"write {amount}{letter.upper()}iB"
    if kind is Interval and letter == "s" and unit.lower().startswith("st"):
        return f"write {amount} steps"
    if kind in {Duration, Interval} and letter in "smhd" and unit.lower() not in {"ms", "mo", "month", "months"}:
        return f"write {amount}{letter}"
    return ""
