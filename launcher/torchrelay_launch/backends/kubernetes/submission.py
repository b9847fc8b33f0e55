"""What a submission to Kubernetes looks like: YAML that kubectl takes, with all else in comments."""

from dataclasses import dataclass

from torchrelay_launch.backends.base import Command, RunRef, Submission
from torchrelay_launch.backends.first_start import first_torchrun
from torchrelay_launch.backends.kubernetes import objects, pods
from torchrelay_launch.spec.models import JobSpec, Slurm


@dataclass(frozen=True)
class ObjectSubmission(Submission):
    """A submission of objects."""

    objects: tuple[pods.Object, ...] = ()

    def __str__(self) -> str:
        head = [f"{self.backend}: attempt {self.run.attempt} of {self.run.url}"]
        head += [f"not honoured here: {warning}" for warning in self.warnings]
        if self.job.kubernetes.create_secret and self.job.secrets:
            name = objects.secret_name(self.job, objects.place_of(self.job, self.run))
            head.append(
                f"made beside these from the submitting shell: Secret {name} with {', '.join(self.job.secrets)}"
            )
        tail = "\n\n".join(str(command) for command in self.starts)
        return f"{_comment(head)}\n{objects.as_yaml(list(self.objects))}\n{_comment(tail.splitlines())}\n"


def submission_of(job: JobSpec, run: RunRef) -> ObjectSubmission:
    """All that submitting does. Raises: ConfigError for a job that cannot run there."""
    made = objects.render(job, run)
    place = objects.place_of(job, run)
    nodes = range(job.resources.nodes.minimum)
    return ObjectSubmission(
        backend="kubernetes",
        job=job,
        run=run,
        submits=(Command("create", ("kubectl", "create", "-f", f"{place.name}.yaml")),),
        starts=tuple(_torchrun(job, run, place, node) for node in nodes),
        files={f"{place.name}.yaml": objects.as_yaml(made)},
        warnings=tuple(objects.not_honoured(job) + _others(job)),
        objects=tuple(made),
    )


def _torchrun(job: JobSpec, run: RunRef, place: pods.Place, node: int) -> Command:
    return first_torchrun(job, run, node, place.host, job.kubernetes.python)


def _others(job: JobSpec) -> list[str]:
    return ["slurm: has no effect on Kubernetes"] if job.slurm != Slurm() else []


def _comment(lines: list[str]) -> str:
    return "\n".join(f"# {line}" if line and not line.startswith("#") else line or "#" for line in lines)
