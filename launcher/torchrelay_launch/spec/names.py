"""The nearest valid name to a mistyped one."""

from collections.abc import Iterable

# Keys that are looked for where they are not -> where they are.
ELSEWHERE = {
    "kubernetes.code": "write `code:` at the top level: snapshot, or live for what is in the image",
    "slurm.code": "write `code:` at the top level: snapshot or live",
}


def nearest(name: str, valid: Iterable[str]) -> str | None:
    """The valid name that `name` most likely stands for, or None if none is close."""
    import difflib

    known = {_plain(one): one for one in sorted(valid)}
    wanted = _plain(name[:100])
    found = difflib.get_close_matches(wanted, known, n=1, cutoff=0.7)
    if not found and len(wanted) >= 3:
        found = [one for one in known if _within(wanted, one)]
    return known[found[0]] if found else None


def _within(wanted: str, one: str) -> bool:
    """Whether one name is the beginning of the other, or its last words."""
    return one.startswith(wanted) or one.endswith(f"_{wanted}") or (len(one) >= 3 and wanted.startswith(one))


def did_you_mean(name: str, valid: Iterable[str]) -> str:
    """A hint: the nearest name, or all of them if they are few, or nothing."""
    names = list(valid)
    found = nearest(name, names)
    if found is not None:
        return f"did you mean `{found}`?"
    return f"there is: {', '.join(names)}" if 0 < len(names) <= 12 else ""


def _plain(name: str) -> str:
    return name.lower().replace("-", "_")
