"""JobSets, TrainJobs and the runtime for them, by the models that Kubeflow Trainer generates from its own API."""

import importlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml
from pydantic import BaseModel, ValidationError

ROOT = Path(__file__).resolve().parents[2]
MODELS = {
    "JobSet": "jobset_v1alpha2_job_set.JobsetV1alpha2JobSet",
    "TrainJob": "trainer_v1alpha1_train_job.TrainerV1alpha1TrainJob",
    "ClusterTrainingRuntime": "trainer_v1alpha1_cluster_training_runtime.TrainerV1alpha1ClusterTrainingRuntime",
}
QUANTITIES = ("limits", "requests", "resourcesPerNode", "sizeLimit")  # which the models take for objects


def complaints(made: dict[str, Any]) -> list[str]:
    """What an object has that its model does not, by name or by type."""
    module, _, name = MODELS[made["kind"]].partition(".")
    model = getattr(importlib.import_module(f"kubeflow_trainer_api.models.{module}"), name)
    try:
        model.model_validate(_without(made, QUANTITIES))
    except ValidationError as error:
        return [str(error)]
    return list(_unknown(made, model, made["kind"]))


def _without(value: Any, names: tuple[str, ...]) -> Any:
    if isinstance(value, dict):
        return {key: _without(item, names) for key, item in value.items() if key not in names}
    return [_without(item, names) for item in value] if isinstance(value, list) else value


def _unknown(value: dict[str, Any], model: type[BaseModel], path: str) -> Iterator[str]:
    fields = {field.alias or name: field.annotation for name, field in model.model_fields.items()}
    for key, item in value.items():
        if key not in fields:
            yield f"{path}.{key}: unknown"
            continue
        of_items = [item] if isinstance(item, dict) else item if isinstance(item, list) else []
        for below in _models(fields[key]):
            for one in of_items:
                yield from _unknown(one, below, f"{path}.{key}")


def _models(annotation: Any) -> list[type[BaseModel]]:
    """The models of a field's values, or of the items of its list; none of a map's, whose keys are free."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    if getattr(annotation, "__origin__", None) is dict:
        return []
    return [model for argument in get_args(annotation) for model in _models(argument)]


def objects(path: str) -> list[dict[str, Any]]:
    return [made for made in yaml.safe_load_all((ROOT / path).read_text()) if made["kind"] in MODELS]


@pytest.mark.parametrize(
    "path",
    [
        "tests/golden/kubernetes-jobset.yaml",
        "tests/golden/kubernetes-trainjob.yaml",
        "k8s/jobset.yaml",
        "k8s/trainjob.yaml",
        "k8s/trainingruntime.yaml",
    ],
)
def test_every_field_is_one_of_the_api(path: str) -> None:
    (made,) = objects(path)
    assert complaints(made) == []


def test_the_models_refuse_what_is_wrong() -> None:
    (jobset,) = objects("tests/golden/kubernetes-jobset.yaml")
    jobset["spec"]["failurePolicy"]["maxRestart"] = 3
    jobset["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]["spec"]["containers"][0]["image_"] = "x"
    assert complaints(jobset) == [
        "JobSet.spec.failurePolicy.maxRestart: unknown",
        "JobSet.spec.replicatedJobs.template.spec.template.spec.containers.image_: unknown",
    ]
    (trainjob,) = objects("tests/golden/kubernetes-trainjob.yaml")
    trainjob["spec"]["trainer"]["numNodes"] = "16"
    (complaint,) = complaints(trainjob)
    assert "spec.trainer.numNodes" in complaint
