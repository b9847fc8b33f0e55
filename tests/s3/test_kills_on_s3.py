"""SIGKILL at every request of a restore, a save, a commit and a sweep on S3; no committed state is ever lost."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

HARNESS = Path(__file__).resolve().parent.parent / "harness"
PROGRAM = Path(__file__).with_name("killed_on_s3.py")


@pytest.mark.timeout(400)
def test_a_kill_at_any_request_loses_nothing(s3_url: str) -> None:
    ran = subprocess.run(
        [sys.executable, str(PROGRAM), s3_url],
        capture_output=True,
        text=True,
        timeout=380,
        check=False,
        env=os.environ | {"PYTHONPATH": str(HARNESS)},
    )
    assert ran.returncode == 0, ran.stderr
    *lines, damaged = [line.split("|") for line in ran.stdout.splitlines()]
    points, newest = [point for point, _ in lines], [int(step) for _, step in lines]
    assert newest == sorted(newest)  # what was committed once is never lost
    commit = points.index("after pipe_file step/manifest.json#1")
    assert newest[commit] == 12 + commit  # a manifest that is there counts, although nobody was told
    assert newest[-1] == 12 + len(lines) - 1  # the attempt that nothing happened to
    assert damaged == ["damaged", "[3]"]  # and nothing else is ever damaged
    parts = ("create_multipart_upload", "upload_part", "complete_multipart_upload")
    expected = [f"{part} /rank-0000{rank}.safetensors#1" for part in parts for rank in (0, 1)]
    records = ("manifest", "damaged", "state", "rank-00000", "rank-00001")
    expected += [f"pipe_file step/{name}.json#1" for name in records]
    expected += ["delete_objects step/manifest.json#1", "delete_objects step/rank-00000.json#1"]
    for moment in ("before", "after"):
        assert {f"{moment} {one}" for one in expected} <= set(points)
    assert "before cat_file /rank-00000.safetensors#1" in points
