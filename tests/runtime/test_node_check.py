"""What a node finds when it looks at itself; two nodes meet in tests/slurm/test_doctor.py."""

import argparse
import socket
import sys
from pathlib import Path

import pytest
import torch

from torchrelay import node_check
from torchrelay.contract import node_report
from torchrelay.contract.storage import open_storage
from torchrelay.node_check import Check


def options(program: str = "", nodes: int = 1, gpus: int = 0) -> argparse.Namespace:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    return argparse.Namespace(node=0, nodes=nodes, address=address, program=program, gpus=gpus)


def test_a_node_on_its_own_gets_to_the_end(tmp_path: Path) -> None:
    program = tmp_path / "train.py"
    program.write_text("print()\n")
    found = Check(open_storage(str(tmp_path)), options(str(program))).run()
    assert found == node_report.read(open_storage(str(tmp_path)), 0)
    assert (found.stage, found.torch, found.process_group) == (node_report.DONE, torch.__version__, "gloo")
    assert (found.reduce_error, found.missing_nodes) == ("", [])
    assert found.reduce_s is not None
    assert found.met_at is not None
    assert len(found.program) == 32


def test_a_node_without_torch_says_so_and_all_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    monkeypatch.setattr(node_check, "SEE_LIMIT_S", 0.2)
    found = Check(open_storage(str(tmp_path)), options(str(tmp_path / "gone.py"), nodes=2)).run()
    assert "ModuleNotFoundError" in found.torch_error
    assert (found.stage, found.missing_nodes) == (node_report.DONE, [1])
    assert found.program == "cannot be read: No such file or directory"
    assert found.open_files != 0


def test_fewer_gpus_than_the_job_asks_for_are_an_error(tmp_path: Path) -> None:
    gpus = torch.cuda.device_count() + 1
    found = Check(open_storage(str(tmp_path)), options(gpus=gpus)).run()
    assert found.gpu_errors[0] == f"torch sees {gpus - 1} GPUs of {gpus}"
