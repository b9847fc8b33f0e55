"""The objects that a job becomes: golden manifests, the schemas of three Kubernetes versions, and the API's rules."""

import dataclasses
import os
import tomllib
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from api_rules import complaints, immutable_complaints, restricted_complaints
from hypothesis import given
from hypothesis import strategies as st
from packaging.requirements import Requirement
from some_jobs import JOBS, LARGE, RUN, SMALL, main_of, of_kind, pod_of, with_options

from torchrelay.contract.errors import ConfigError
from torchrelay.contract.units import Duration, NodeCount, Size
from torchrelay_launch.backends.base import RunRef
from torchrelay_launch.backends.kubernetes import names, objects
from torchrelay_launch.backends.kubernetes.submission import submission_of
from torchrelay_launch.spec.models import Kubernetes, Resources, Volume

GOLDEN = Path(__file__).resolve().parent.parent / "golden"
VERSIONS = ("1.35", "1.36", "1.37")


@pytest.mark.parametrize("name", JOBS)
def test_golden(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torchrelay_launch.installed.torch_version", lambda: "2.14.1")
    text = str(submission_of(JOBS[name], RUN))
    path = GOLDEN / f"kubernetes-{name}.yaml"
    if os.environ.get("UPDATE_GOLDEN"):
        path.write_text(text)
    assert text == path.read_text(), f"UPDATE_GOLDEN=1 pytest {__file__} refreshes it"


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("name", ["small", "large", "jobset"])
def test_schema_of_kubernetes(name: str, version: str) -> None:
    for made in yaml.safe_load_all((GOLDEN / f"kubernetes-{name}.yaml").read_text()):
        kubernetes_validate.validate(_plain(made), version, strict=True)


def _plain(made: dict[str, Any]) -> dict[str, Any]:
    """The schemas hold no custom resources, but the Job inside a JobSet is a plain one."""
    if made["kind"] != "JobSet":
        return made
    spec = made["spec"]["replicatedJobs"][0]["template"]["spec"]
    return {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "inner"}, "spec": spec}


def test_the_schemas_refuse_what_is_wrong() -> None:
    made = main_of(objects.render(SMALL, RUN))
    made["spec"]["template"]["spec"]["terminationGracePeriodSeconds"] = "long"
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(made, VERSIONS[-1], strict=True)


@pytest.mark.parametrize("name", JOBS)
def test_rules_of_the_api(name: str) -> None:
    for made in objects.render(JOBS[name], RUN):
        assert complaints(made) == []


@pytest.mark.parametrize(
    ("field", "value", "says"),
    [
        ("completions", None, "completions is required"),
        ("podReplacementPolicy", "TerminatingOrFailed", "must be Failed"),
        ("backoffLimitPerIndex", "3", "backoffLimitPerIndex"),
    ],
)
def test_the_rules_can_fail(field: str, value: Any, says: str) -> None:
    made = main_of(objects.render(SMALL, RUN))
    made["spec"][field] = value
    assert any(says in one for one in complaints(made))


@given(
    run_id=st.one_of(
        st.text(min_size=1, max_size=120),
        st.from_regex(r"\A[a-z0-9][a-z0-9-]{0,38}[a-z0-9]-20261121-101500-[0-9a-f]{4}\Z"),
    ),
    attempt=st.integers(1, 99999),
    kind=st.sampled_from(["job", "jobset", "trainjob"]),
    nodes=st.sampled_from([1, 10, 100_000]),
)
def test_names_and_labels_hold_for_any_run(run_id: str, attempt: int, kind: str, nodes: int) -> None:
    job = dataclasses.replace(of_kind(SMALL, kind), resources=Resources(NodeCount(nodes, nodes)))
    made = objects.render(job, RunRef(run_id, "s3://b/run", attempt, "/w"))
    assert [one for each in made for one in complaints(each)] == []


def test_long_names_stay_apart() -> None:
    base = "a" * 40
    ids = [f"{base}-20261121-101500-a1b2", f"{base}-20261121-101500-a1b3", f"{base}-x" * 3, f"{base}-y" * 3]
    assert len({names.object_name(one, 1) for one in ids}) == len(ids)
    assert names.object_name(ids[0], 1).endswith("-20261121-101500-a1b2-a1")


def test_secrets_are_references_and_dollars_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "very-secret-value")
    text = str(submission_of(with_options(LARGE, secret=None, create_secret=True), RUN))
    assert "very-secret-value" not in text
    variables = {one["name"]: one for one in pod_of(list(yaml.safe_load_all(text)))["containers"][0]["env"]}
    reference = variables["AWS_SECRET_ACCESS_KEY"]["valueFrom"]["secretKeyRef"]
    assert reference == {"name": "job-20261121-101500-a1b2-a1-secrets", "key": "AWS_SECRET_ACCESS_KEY"}
    assert variables["TEXT"]["value"] == "$$(NOT_EXPANDED)"
    assert "Secret job-20261121-101500-a1b2-a1-secrets with AWS_SECRET_ACCESS_KEY, WANDB_API_KEY" in text


def test_rendering_is_deterministic() -> None:
    assert str(submission_of(LARGE, RUN)) == str(submission_of(LARGE, RUN))


@given(size=st.integers(1, 2**60), kind=st.sampled_from(["job", "jobset", "trainjob"]))
def test_every_size_is_a_quantity(size: int, kind: str) -> None:
    options = {"shm_size": Size(size), "ephemeral_storage": Size(size)}
    job = with_options(of_kind(SMALL, kind), **options)
    job = dataclasses.replace(job, resources=Resources(memory=Size(size)))
    assert [one for each in objects.render(job, RUN) for one in complaints(each)] == []


def test_root_is_what_capabilities_need() -> None:
    asked = with_options(SMALL, capabilities=["IPC_LOCK"])
    assert any("kubernetes.run_as_user: 0" in one for one in objects.not_honoured(asked))
    root = with_options(asked, run_as_user=0)
    assert objects.not_honoured(root) == []
    context = pod_of(objects.render(root, RUN))["securityContext"]
    assert (context["runAsUser"], context["runAsNonRoot"]) == (0, False)


def test_labels_of_torchrelay_stay_and_this_is_said() -> None:
    job = with_options(SMALL, labels={"torchrelay/run": "mine", "team": "vision"})
    assert objects.not_honoured(job) == ["kubernetes.labels: torchrelay/run is torchrelay's own"]
    assert main_of(objects.render(job, RUN))["metadata"]["labels"]["torchrelay/run"] == names.label_value(RUN.run_id)


def test_pods_wait_for_each_other_for_longer_than_kubernetes_waits_to_replace_one() -> None:
    assert Kubernetes().join > 600 + 300  # the longest back-off of the Job controller, and an image to pull


@pytest.mark.parametrize("kind", ["job", "jobset"])
def test_kubernetes_counts_and_delays_a_pod_by_its_own_failures_alone(kind: str) -> None:
    """A limit for all pods together would take one failure of eight pods at once for eight."""
    made = main_of(objects.render(with_options(of_kind(LARGE, kind), backoff_limit=5), RUN))["spec"]
    spec = made if kind == "job" else made["replicatedJobs"][0]["template"]["spec"]
    limits = {name: value for name, value in spec.items() if name.startswith("backoffLimit")}
    one = {"backoffLimitPerIndex": 5}  # and without a limit for all, Kubernetes sets none
    assert limits == (one if kind == "job" else {"backoffLimit": 0, "backoffLimitPerIndex": 0})
    assert spec["maxFailedIndexes"] == 0


@pytest.mark.parametrize("kind", ["job", "jobset"])
def test_the_first_pod_completes_a_job(kind: str) -> None:
    made = main_of(objects.render(of_kind(LARGE, kind), RUN))["spec"]
    spec = made if kind == "job" else made["replicatedJobs"][0]["template"]["spec"]
    assert spec["successPolicy"] == {"rules": [{"succeededIndexes": "0"}]}


def test_a_jobset_does_not_start_again_when_its_time_is_up() -> None:
    made = main_of(objects.render(with_options(of_kind(SMALL, "jobset"), active_deadline=Duration(3600)), RUN))
    (rule,) = made["spec"]["failurePolicy"]["rules"]
    assert (rule["action"], "DeadlineExceeded" in rule["onJobFailureReasons"]) == ("FailJobSet", True)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"image": None}, "build one from k8s/Dockerfile"),
        ({"volumes": [Volume(name="a", mount="/a")]}, "'a' has no source"),
        ({"volumes": [Volume(name="a", mount="/a", claim="x", empty_dir=True)]}, "more than one source"),
        (
            {"volumes": [Volume(name="a", mount="/a", claim="x"), Volume(name="a", mount="/b", claim="y")]},
            "two different volumes 'a'",
        ),
        (
            {"volumes": [Volume(name="a", mount="/a", claim="x"), Volume(name="b", mount="/a", claim="y")]},
            "mounted twice: /a",
        ),
        (
            {"volumes": [Volume(name="shm", mount="/dev/shm", host_path="/mnt")], "shm_size": Size(1 << 30)},
            "shm_size: there is no emptyDir 'shm'",
        ),
        ({"patch": [{"kind": "Deployment"}]}, "there is no Deployment to patch; there is: Service, Job"),
    ],
)
def test_mistakes(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        objects.render(with_options(SMALL, **changes), RUN)


def test_secrets_need_a_place() -> None:
    job = dataclasses.replace(SMALL, secrets=["TOKEN"])
    with pytest.raises(ConfigError, match=r"kubernetes\.secret or .* kubernetes\.create_secret: true"):
        objects.render(job, RUN)


def test_elastic_needs_a_plain_job() -> None:
    job = dataclasses.replace(of_kind(SMALL, "jobset"), resources=Resources(NodeCount(1, 4)))
    with pytest.raises(ConfigError, match=r"needs kubernetes\.kind: job"):
        objects.render(job, RUN)


def test_what_a_runtime_decides_is_reported() -> None:
    warnings = submission_of(of_kind(LARGE, "trainjob"), RUN).warnings
    assert "kubernetes.shm_size: the runtime of a TrainJob decides it" in warnings
    assert "restarts.grace: before Kubeflow Trainer 2.3 the runtime of a TrainJob decides it" in warnings
    assert submission_of(LARGE, RUN).warnings == ()


def test_pods_pass_the_restricted_standard_unless_the_spec_asks_for_more() -> None:
    assert list(restricted_complaints(pod_of(objects.render(SMALL, RUN)))) == []
    more = {
        "host_network": True,
        "capabilities": ["IPC_LOCK"],
        "volumes": [Volume(name="a", mount="/a", host_path="/a")],
    }
    said = list(restricted_complaints(pod_of(objects.render(with_options(SMALL, **more), RUN))))
    assert said[:2] == ["the host's namespaces", "volume a"]


def test_only_the_size_of_a_job_changes() -> None:
    old = main_of(objects.render(SMALL, RUN))["spec"]
    assert list(immutable_complaints(old, old | {"completions": 4, "parallelism": 4})) == []
    assert list(immutable_complaints(old, old | {"completions": 4})) == ["spec.completions: field is immutable"]
    assert list(immutable_complaints(old, old | {"template": {}})) == ["spec.template: field is immutable"]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"numNodes": "2"}, "numNodes a number"),
        ({"command": ["x"] * 129}, "128 words of command"),
        ({"env": [{"name": "PET_NNODES", "value": "2"}]}, "PET_NNODES"),
    ],
)
def test_the_rules_of_a_trainjob_can_fail(change: dict[str, Any], says: str) -> None:
    made = main_of(objects.render(of_kind(SMALL, "trainjob"), RUN))
    made["spec"]["trainer"] |= change
    assert any(says in one for one in complaints(made))


def test_the_runtime_for_trainer_has_the_rules_of_the_jobset() -> None:
    """What k8s/trainingruntime.yaml makes of a TrainJob is what `kind: jobset` is, but for the container's name."""
    runtime, jobset = objects.base("trainingruntime"), objects.base("jobset")
    spec = runtime["spec"]["template"]["spec"]
    assert complaints({"kind": "JobSet", "metadata": {"name": "a" * 44}, "spec": spec}) == []
    (replicated,), (other,) = spec["replicatedJobs"], jobset["spec"]["replicatedJobs"]
    assert replicated["template"].pop("metadata")["labels"] == {
        "trainer.kubeflow.org/trainjob-ancestor-step": "trainer"
    }
    text = yaml.safe_dump(spec).replace("containerName: node", "containerName: train")
    made = yaml.safe_load(text)
    (container,) = made["replicatedJobs"][0]["template"]["spec"]["template"]["spec"]["containers"]
    container |= {"name": "train", "env": other["template"]["spec"]["template"]["spec"]["containers"][0]["env"]}
    assert made == jobset["spec"]


def test_the_image_pins_what_it_installs() -> None:
    """k8s/constraints.txt: every requirement of these extras, at a version that pyproject.toml allows."""
    root = Path(__file__).resolve().parents[2]
    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    dockerfile = (root / "k8s" / "Dockerfile").read_text()
    pins = dict(
        line.split("==") for line in (root / "k8s" / "constraints.txt").read_text().splitlines() if "==" in line
    )
    for argument, name in (("TORCH", "torch"), ("TORCHVISION", "torchvision")):
        pins[name] = dockerfile.partition(f"ARG {argument}=")[2].split()[0]
    extras = [project["optional-dependencies"][extra] for extra in ("train", "demo", "s3", "kubernetes")]
    for wanted in map(Requirement, sum(extras, project["dependencies"])):
        if wanted.name != "torchrelay":
            assert wanted.specifier.contains(pins[wanted.name]), wanted


def test_base_manifests_are_valid_as_they_are() -> None:
    rbac = Path(__file__).resolve().parents[2] / "k8s" / "rbac.yaml"
    for made in [objects.base("job"), objects.base("service"), *yaml.safe_load_all(rbac.read_text())]:
        for version in VERSIONS:
            kubernetes_validate.validate(made, version, strict=True)
