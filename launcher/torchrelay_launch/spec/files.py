"""Reading a spec's file: as text, or with a problem that says why not."""

# ruff: noqa: PTH112, PTH116, PTH123 (pathlib would be a tenth of the launcher's start-up)

import codecs
import os
import stat

from torchrelay_launch.spec.names import did_you_mean
from torchrelay_launch.spec.places import Place, Problem, Source

MAX_BYTES = 2**20


def read_text(path: str, place: Place | str, problems: list[Problem]) -> Source | None:
    """The text of a spec's file. `place`: what asked for it, to which a problem is put down."""
    shown = "" if place == path else f"{path}: "
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):  # a pipe or device must not be opened
            what = "a folder" if os.path.isdir(path) else "no ordinary file"
            problems.append(Problem(place, f"{shown}this is {what}, not a spec", _specs_in(path)))
            return None
        with open(path, "rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        problems.append(Problem(place, f"{shown}{_why(error)}", _near(path) if error.errno == 2 else ""))
        return None
    except ValueError as error:  # a NUL, or what the file system's encoding has no bytes for
        problems.append(Problem(place, f"{shown}no possible path: {error}"))
        return None
    return _decoded(data, path, problems)


def _decoded(data: bytes, path: str, problems: list[Problem]) -> Source | None:
    if len(data) > MAX_BYTES:
        problems.append(Problem(path, f"larger than {MAX_BYTES // 2**20} MiB, so hardly a spec"))
        return None
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        problems.append(Problem(path, "written in UTF-16", "save it as UTF-8"))
        return None
    if b"\0" in data:
        problems.append(Problem(path, "a binary file, not a spec"))
        return None
    try:
        return Source(path, data.removeprefix(codecs.BOM_UTF8).decode())
    except UnicodeDecodeError as error:
        readable = Source(path, data[: error.start].decode(errors="replace") + "\N{REPLACEMENT CHARACTER}")
        place = Place(readable, len(readable.lines) - 1, len(readable.lines[-1]) - 1)
        problems.append(Problem(place, f"not UTF-8: byte 0x{data[error.start]:02x}", "save it as UTF-8"))
        return None


def _why(error: OSError) -> str:
    if isinstance(error, FileNotFoundError):
        return "there is no such file"
    if isinstance(error, PermissionError):
        return "no permission to read it"
    return f"can't be read: {error.strerror or error}"


def _near(path: str) -> str:
    folder, name = os.path.split(path)
    try:
        names = [one for one in os.listdir(folder or ".") if one.endswith((".yaml", ".yml"))]
    except OSError:
        return f"there is no folder {folder} either"
    return did_you_mean(name, sorted(names))


def _specs_in(path: str) -> str:
    try:
        names = sorted(one for one in os.listdir(path) if one.endswith((".yaml", ".yml")))
    except OSError:
        return ""
    return f"specs in it: {', '.join(names[:8])}" if names else ""
