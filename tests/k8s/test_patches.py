"""What a site changes: patches of what is made, and base manifests of its own."""

from typing import Any

import pytest
from some_jobs import RUN, SMALL, main_of, of_kind, pod_of, with_options

from torchrelay.contract.errors import ConfigError
from torchrelay_launch.backends.kubernetes import objects


def test_base_manifests_of_a_site_may_leave_out_what_is_optional(monkeypatch: pytest.MonkeyPatch) -> None:
    shipped = objects.base

    def base(name: str) -> objects.Object:
        made = shipped(name)
        if name == "service":
            del made["spec"]["ports"]
        if name == "job":
            pod = made["spec"]["template"]["spec"]
            del pod["securityContext"], pod["containers"][0]["securityContext"]
        if name == "trainjob":
            made["spec"]["runtimePatches"] = []
        return made

    monkeypatch.setattr(objects, "base", base)
    made = objects.render(with_options(SMALL, run_as_user=0, capabilities=["IPC_LOCK"]), RUN)
    assert pod_of(made)["securityContext"]["runAsUser"] == 0
    assert pod_of(made)["containers"][0]["securityContext"] == {"capabilities": {"add": ["IPC_LOCK"]}}
    with pytest.raises(ConfigError, match=r"expected one element in spec\.runtimePatches"):
        objects.render(of_kind(SMALL, "trainjob"), RUN)


def test_a_patch_of_a_trainjob_keeps_the_runtimes_patches() -> None:
    patch = {"spec": {"runtimePatches": [{"manager": "site/own", "trainingRuntimeSpec": {}}]}}
    made = main_of(objects.render(with_options(of_kind(SMALL, "trainjob"), patch=[patch]), RUN))
    assert [one["manager"] for one in made["spec"]["runtimePatches"]] == ["torchrelay/launcher", "site/own"]


def test_patches_reach_one_element_of_a_list() -> None:
    patch = {
        "spec": {
            "template": {
                "spec": {
                    "containers": [{"name": "train", "env": [{"name": "HOME", "value": "/home"}], "tty": True}],
                    "volumes": [{"name": "tmp", "$patch": "delete"}],
                    "automountServiceAccountToken": None,
                }
            }
        }
    }
    job = with_options(SMALL, patch=[patch, {"kind": "Service", "metadata": {"annotations": {"a": "b"}}}])
    service, _ = made = objects.render(job, RUN)
    pod = pod_of(made)
    (container,) = pod["containers"]
    assert {"name": "HOME", "value": "/home"} in container["env"]
    assert container["tty"] is True
    assert container["image"] == "registry.example/train:1"
    assert [one["name"] for one in pod["volumes"]] == ["shm"]
    assert "automountServiceAccountToken" not in pod
    assert service["metadata"]["annotations"]["a"] == "b"


@pytest.mark.parametrize(
    ("patch", "says"),
    [
        ({"spec": {"template": {"spec": {"containers": [{"image": "x"}]}}}}, "has no `name`"),
        ({"spec": {"template": {"spec": {"containers": ["x"]}}}}, "list of objects with the key `name`"),
        ({"spec": {"$retainKeys": []}}, r"only `\$patch: replace`"),
    ],
)
def test_patches_that_cannot_be(patch: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        objects.render(with_options(SMALL, patch=[patch]), RUN)
