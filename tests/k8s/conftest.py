"""A cluster to submit to. The modules beside the tests are tools of the tests and not shipped."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

sys.path.insert(0, str(Path(__file__).parent))

from api_server import Cluster, kubeconfig_of, serving

from torchrelay_launch.spec.models import JobSpec, Kubernetes, Volume


@pytest.fixture
def cluster() -> Cluster:
    return Cluster()


@pytest.fixture
def kubeconfig(cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A kubeconfig for the server, in KUBECONFIG."""
    path = tmp_path / "kubeconfig"
    with serving(cluster) as url:
        path.write_text(yaml.safe_dump(kubeconfig_of(url)))
        monkeypatch.setattr("kubernetes.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION", str(path))
        monkeypatch.setenv("KUBECONFIG", str(path))
        yield path


@pytest.fixture
def job(tmp_path: Path) -> JobSpec:
    volume = Volume(name="runs", mount=str(tmp_path), claim="runs")
    return JobSpec(name="j", script="train.py", code="live", kubernetes=Kubernetes(image="i:1", volumes=[volume]))
