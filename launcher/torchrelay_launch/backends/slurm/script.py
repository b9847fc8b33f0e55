"""The batch script: slurm/train.sbatch with its places filled in. Pure, but for reading the template."""

import re
import shlex
import sys
from functools import partial
from pathlib import Path

from torchrelay.contract.errors import ConfigError
from torchrelay_launch.backends.base import RunRef
from torchrelay_launch.backends.slurm import options
from torchrelay_launch.spec.models import JobSpec

TEMPLATE = "train.sbatch"
LOOK_TEMPLATE = "doctor.sbatch"  # of the job that `torchrelay doctor` submits
_PLACE = re.compile(r"\{\{ ?(\w+) ?\}\}")


def render(job: JobSpec, run: RunRef, folder: str) -> str:
    """The script that is submitted. `folder`: where script, environment and output of the run's jobs lie.

    Raises: ConfigError for a template that cannot be used.
    """
    return fill(_template(job.slurm.template), _values(job, run, folder, options.srun_options(job)))


def render_look(job: JobSpec, run: RunRef, folder: str) -> str:
    """The script with which `torchrelay doctor` looks at the nodes that a job would get. Raises: ConfigError."""
    srun = [one for one in options.srun_options(job) if one[0] != "output"] + [("label", None)]
    program = {"program": shlex.quote(job.script or ""), "gpus": str(job.resources.gpus_per_node)}
    return fill(shipped(LOOK_TEMPLATE), _values(job, run, folder, srun) | program)


def _values(job: JobSpec, run: RunRef, folder: str, srun: list[options.Option]) -> dict[str, str]:
    """What stands in the places of a template."""
    output = options.file_pattern(f"{folder}/job-") + "%j.out"
    python = sys.executable
    return {
        "sbatch_options": "\n".join(f"#SBATCH {options.quoted(one)}" for one in options.sbatch_options(job, output)),
        "environment_file": shlex.quote(environment_file(folder, run.attempt)),
        "workdir": shlex.quote(code_folder(job, run)),
        "setup": "\n".join(job.slurm.setup) or ":",
        "container": _container(job, run),
        "node_python": shlex.quote(node_python(job, python)),
        "python": shlex.quote(python),
        "run": shlex.quote(run.url),
        "join_s": f"{float(job.slurm.join):g}",
        "srun_options": " ".join(_shell_word(one) for one in srun),
    }


def fill(template: str, values: dict[str, str]) -> str:
    """Put values in their places, and leave out lines with ##. Raises: ConfigError for a place that has no value."""
    lines = []
    for line in template.split("\n"):
        if line.startswith("##"):
            continue
        indent = line[: len(line) - len(line.lstrip())]
        lines.append(_PLACE.sub(partial(_value, values, indent), line))
    return re.sub(r"exec  +", "exec ", "\n".join(lines))


def script_file(folder: str, attempt: int) -> str:
    """Path of the script that was submitted for an attempt, and is again for those that follow it."""
    return f"{folder}/a{attempt:04d}.sbatch"


def environment_file(folder: str, attempt: int) -> str:
    """Path of the environment that belongs to a script, mode 0600."""
    return f"{folder}/a{attempt:04d}.env"


def code_folder(job: JobSpec, run: RunRef) -> str:
    """The folder that the job runs in: a copy of the code in the run, or where it was submitted."""
    return run.workdir if job.code == "live" or "://" in run.url else f"{run.url}/code/a{run.attempt:04d}"


def forget_environment(script: str) -> None:
    """Remove the environment of a run that is over: it may hold secrets, and a resume brings its own."""
    if script.endswith(".sbatch"):
        Path(script).with_suffix(".env").unlink(missing_ok=True)


def _value(values: dict[str, str], indent: str, place: re.Match[str]) -> str:
    name = place[1]
    if name not in values:
        raise ConfigError(f"the batch script's template has no place {name!r}; there are: {', '.join(sorted(values))}")
    return values[name].replace("\n", f"\n{indent}") if name == "setup" else values[name]


def shipped(name: str) -> str:
    """A template that travels with the launcher."""
    from torchrelay_launch.shipped import shipped_file

    return shipped_file(f"slurm/{name}").read_text()


def _template(path: str | None) -> str:
    if path is None:
        return shipped(TEMPLATE)
    try:
        return Path(path).read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"slurm.template: cannot read {path}: {error}") from error


def _shell_word(option: options.Option) -> str:
    name, value = option
    return f"--{name}" if value is None else f"--{name}={shlex.quote(value)}"


def _container(job: JobSpec, run: RunRef) -> str:
    """The command that runs the supervisor in an apptainer image; pyxis is srun's business."""
    if job.slurm.apptainer is None:
        return ""
    binds = sorted({run.workdir, run.url.rpartition("/")[0] or "/"} - {"/"})
    words = ["apptainer", "exec", *(["--nv"] if job.resources.gpus_per_node else [])]
    words += [word for bind in binds if "://" not in bind for word in ("--bind", bind)]
    return shlex.join([*words, "--pwd", code_folder(job, run), job.slurm.apptainer])


def node_python(job: JobSpec, python: str) -> str:
    if job.slurm.python is not None:
        return job.slurm.python
    return "python3" if job.slurm.container_image or job.slurm.apptainer else python
