"""SIGKILL at every point of a restore, a save, a commit and a sweep on disk; no committed state is ever lost."""

import json
import os
import subprocess
import sys
from pathlib import Path

PROGRAM = Path(__file__).with_name("programs") / "killed.py"
HARNESS = Path(__file__).resolve().parent.parent / "harness"


def test_a_kill_at_any_point_loses_nothing(tmp_path: Path) -> None:
    ran = subprocess.run(
        [sys.executable, str(PROGRAM), str(tmp_path / "run")],
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
        env=os.environ | {"PYTHONPATH": str(HARNESS)},
    )
    assert ran.returncode == 0, ran.stderr
    lines = [line.split("|") for line in ran.stdout.splitlines()]
    points = [point for point, _ in lines]
    newest, damaged = zip(*(json.loads(found) for _, found in lines), strict=True)
    assert None not in newest
    assert list(newest) == sorted(newest)  # what was committed once is never lost
    commit = points.index("after create manifest.json#1")
    assert newest[commit] == 12 + commit  # a manifest that is there counts, although nobody was told
    assert newest[-1] > newest[0] >= 11  # the attempt that nothing happened to
    assert {tuple(steps) for steps in damaged} == {(3,)}  # and nothing else is ever damaged
    files = ("manifest.json", "damaged.json", "state.json", "rank-00000.safetensors", "rank-00001.json")
    assert {f"written {name}#1" for name in files} <= set(points)
    for moment in ("before", "after"):
        assert {f"{moment} create {name}#1" for name in files} <= set(points)
        assert {f"{moment} delete {name}#1" for name in ("manifest.json", "step")} <= set(points)
        assert f"{moment} open rank-00001.safetensors#1" in points
    going = ("unlink manifest.json", "unlink state.json", "unlink rank-00001.safetensors", "rmdir step")
    assert {f"before {name}#1" for name in going} <= set(points)
