"""Rules for `env:` and `secrets:`."""

from torchrelay_launch.spec.decode import Decoded
from torchrelay_launch.spec.rules_storage import storage_secrets
from torchrelay_launch.spec.scalars import Scalar
from torchrelay_launch.spec.tree import Mapping

_SET_BY_TORCHRUN = {
    *("RANK", "LOCAL_RANK", "GROUP_RANK", "ROLE_RANK", "ROLE_NAME"),
    *("WORLD_SIZE", "LOCAL_WORLD_SIZE", "GROUP_WORLD_SIZE", "ROLE_WORLD_SIZE"),
    *("TORCHELASTIC_LOG_LINE_PREFIX_TEMPLATE", "TORCHELASTIC_RESTART_COUNT", "TORCHELASTIC_RUN_ID"),
}
_OURS = ("TORCHRELAY_", "MASTER_", "PET_")  # PET_*: torchrun's options by the environment
_HARMLESS = {"true", "false", "none", "null"}
_PATH_PARTS = {"FILE", "PATH", "DIR", "NAME", "LENGTH"}


def check_env(found: Decoded) -> None:
    """Add problems of environment variables: their names, who sets them, and secrets written down."""
    names = _names(found)
    for name in names:
        _name(found, f"env.{name}", name)
    seen: set[str] = set()
    for path, name in _secrets(found):
        _secret(found, path, name, seen, names)
        seen.add(name)
    for name in _literals(found):
        text = f"env.{name}: this looks like a secret, and a spec is stored with the run"
        hint = f"take it out, write secrets: [{name}] and set it in your shell"
        found.problem(found.nodes[f"env.{name}"].place, text, hint)


def literal_secrets(found: Decoded) -> frozenset[str]:
    """Texts not to be shown: values of variables that are named like secrets, and the like."""
    env = found.nodes.get("env")
    variables = env.entries.items() if isinstance(env, Mapping) else ()
    nodes = [entry.value for name, entry in variables if _looks_secret(name)]
    lines = [line.strip() for node in nodes if isinstance(node, Scalar) for line in node.text.splitlines()]
    given = [name.partition("=")[2] for _, name in _secrets(found)]
    return frozenset(text for text in [*lines, *given, *storage_secrets(found)] if not _harmless(text))


def _names(found: Decoded) -> list[str]:
    env = found.nodes.get("env")
    return list(env.entries) if isinstance(env, Mapping) else []


def _secrets(found: Decoded) -> list[tuple[str, str]]:
    paths = [path for path in found.values if path.startswith("secrets.")]
    return [(path, found.values[path]) for path in paths]


def _name(found: Decoded, path: str, name: str) -> None:
    place = found.place(path)
    if not (name.isascii() and name.isidentifier()):
        found.problem(
            place, f"{path}: no name of an environment variable", "letters, digits and _, not beginning with a digit"
        )
    elif name in _SET_BY_TORCHRUN or name.startswith(_OURS):
        found.problem(place, f"{path}: torchrun or torchrelay sets this variable itself", "take it out")


def _secret(found: Decoded, path: str, name: str, seen: set[str], env: list[str]) -> None:
    place = found.nodes[path].place
    _name(found, path, name) if "=" not in name else found.problem(
        place, f"{path}: expected only the name of a variable", "its value comes from your shell"
    )
    if name in seen:
        found.problem(place, f"{path}: `{name}` is listed twice", "remove one of them")
    if name in env:
        text = f"{path}: `{name}` is also in `env:`"
        found.problem(place, text, f"take it out at {found.place(f'env.{name}')}")


def _literals(found: Decoded) -> list[str]:
    """Variables of `env:` that are named like secrets and have a value that could be one."""
    names = [name for name in _names(found) if f"env.{name}" in found.values]
    return [name for name in names if _looks_secret(name) and not _harmless(found.values[f"env.{name}"])]


def _looks_secret(name: str) -> bool:
    parts = name.upper().split("_")
    if parts[-1] in _PATH_PARTS:
        return False
    telling = any(word in name.upper() for word in ("SECRET", "PASSWORD", "PASSWD"))
    return telling or any(part.endswith(("TOKEN", "KEY")) and part not in {"MONKEY", "HOTKEY"} for part in parts)


def _harmless(value: str) -> bool:
    """Too short for a secret, or a number or a switch, as in MAX_TOKEN."""
    return len(value) < 4 or value.lower() in _HARMLESS or (len(value) <= 6 and value.replace(".", "").isdecimal())
