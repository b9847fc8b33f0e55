"""What is installed beside the launcher, found out without importing it."""

import importlib.machinery
import re
from pathlib import Path


def torch_version() -> str:
    """Version of the torch that will run, or "" without one.

    Read from its own version.py: importlib.metadata would cost `render` as much as all of YAML does.
    """
    found = importlib.machinery.PathFinder.find_spec("torch")
    if found is None or found.origin is None:
        return ""
    try:
        text = Path(found.origin).with_name("version.py").read_text()
    except OSError:
        return ""
    match = re.search(r"""^__version__ = ['"]([^'"]+)['"]""", text, re.MULTILINE)
    return match[1] if match else ""
