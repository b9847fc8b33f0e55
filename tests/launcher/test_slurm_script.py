"""What is submitted to Slurm: golden scripts, shellcheck, and values that are hard to quote."""

import dataclasses
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from torchrelay.contract.errors import ConfigError
from torchrelay.contract.units import Duration, NodeCount, Size
from torchrelay_launch.backends.base import RunRef, Submission
from torchrelay_launch.backends.slurm import options, script
from torchrelay_launch.backends.slurm.backend import SlurmBackend
from torchrelay_launch.spec.models import JobSpec, Resources, Restarts, Slurm

PYTHON = "/shared/venv/bin/python"
RUN = RunRef("job-1", "/shared/runs/job-1", 1, "/home/ada/project")
HARD = RunRef("job-1", '/shared/it\'s "my" runs/100 % $HOME/job-1', 12, "/home/ada/a b; c `d`")
SMALL = JobSpec(name="small", script="train.py")
LARGE = JobSpec(
    name="large",
    script="train.py",
    resources=Resources(
        nodes=NodeCount(2, 8), gpus_per_node=4, cpus_per_proc=6, memory=Size(2**36), time_limit=Duration(43_199)
    ),
    restarts=Restarts(grace=Duration(90)),
    slurm=Slurm(
        partition="gpu,gpu-long",
        account="lab",
        qos="high",
        constraint="a100&(ib|roce)",
        exclude="node[17,23]",
        comment='nightly "full" run, #7 \\o/',
        mail_type="END,FAIL",
        setup=["module load cuda/12.4", "export NCCL_DEBUG=WARN  # says little"],
        extra={"nice": 100, "exclusive": True, "licenses": ["matlab:1", "x"], "nothing": None},
    ),
)
SPECS = {
    "small": (SMALL, RUN),
    "large": (LARGE, RUN),
    "hard-to-quote": (SMALL, HARD),
    "pyxis": (
        dataclasses.replace(
            SMALL, slurm=Slurm(container_image="nvcr.io#nvidia/pytorch:25.01-py3", container_mounts="/a b:/c")
        ),
        RUN,
    ),
    "apptainer": (
        dataclasses.replace(SMALL, resources=Resources(gpus_per_node=1), slurm=Slurm(apptainer="/images/it's.sif")),
        RUN,
    ),
}


@pytest.fixture(autouse=True)
def _python(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", PYTHON)


@pytest.mark.parametrize("name", SPECS)
def test_the_submission_is_as_recorded(name: str, golden_file: Callable[[str, str], None]) -> None:
    job, run = SPECS[name]
    (text,) = SlurmBackend().render(job, run).files.values()
    golden_file(f"slurm-{name}.sbatch", text)


def test_what_doctor_submits_is_as_recorded(golden_file: Callable[[str, str], None]) -> None:
    job = dataclasses.replace(LARGE, script="it's train.py")
    golden_file("slurm-doctor.sbatch", script.render_look(job, RUN, f"{RUN.url}/slurm"))


@pytest.mark.parametrize("render", [script.render, script.render_look])
@pytest.mark.parametrize("name", SPECS)
def test_the_script_passes_shellcheck(name: str, render: Callable[[JobSpec, RunRef, str], str], tmp_path: Path) -> None:
    job, run = SPECS[name]
    file = tmp_path / "job.sbatch"
    file.write_text(render(job, run, f"{run.url}/slurm"))
    shellcheck = shutil.which("shellcheck") or str(Path(sys.prefix) / "bin" / "shellcheck")
    done = subprocess.run([shellcheck, str(file)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(("name", "sweep"), [("sweep", RUN), ("sweep-hard-to-quote", HARD)])
def test_the_array_of_a_sweep_is_as_recorded_and_passes_shellcheck(
    name: str, sweep: RunRef, tmp_path: Path, golden_file: Callable[[str, str], None]
) -> None:
    runs = [dataclasses.replace(sweep, run_id=f"job-1-00{n}", url=f"{sweep.url}-00{n}") for n in (1, 2, 3)]
    backend = SlurmBackend()
    made = backend.together([backend.render(LARGE, run) for run in runs], sweep, 2)
    assert made is not None
    ((path, text),) = made.files.items()
    assert made.command.argv[-1] == path == f"{sweep.url}/slurm/sweep.sbatch"
    golden_file(f"slurm-{name}.sbatch", text)
    file = tmp_path / "sweep.sbatch"
    file.write_text(text)
    shellcheck = shutil.which("shellcheck") or str(Path(sys.prefix) / "bin" / "shellcheck")
    done = subprocess.run([shellcheck, str(file)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    echo = tmp_path / "bash"
    echo.write_text('#!/bin/sh\nprintf "%s|" "$@"\n')
    echo.chmod(0o755)
    environment = {"PATH": f"{tmp_path}:/usr/bin:/bin", "SLURM_ARRAY_TASK_ID": "2"}
    said = subprocess.run(["/bin/bash", str(file)], env=environment, capture_output=True, text=True, check=True)
    assert said.stdout == f"{runs[1].url}/slurm/a0001.sbatch|1|"


@pytest.mark.parametrize(
    "other", [Slurm(partition="x"), Slurm(array=False), Slurm(template="site.sbatch"), Slurm(extra={"nice": 1})]
)
def test_runs_that_cannot_share_their_options_are_no_array(other: Slurm) -> None:
    jobs = [SMALL, dataclasses.replace(SMALL, slurm=other)]
    runs = [Submission("slurm", job, RUN, (), ()) for job in jobs]
    assert SlurmBackend().together(runs, RUN, None) is None
    assert SlurmBackend().together(runs[:1] * 2, RUN, None) is not None


def test_rendering_is_the_same_every_time() -> None:
    assert str(SlurmBackend().render(LARGE, RUN)) == str(SlurmBackend().render(LARGE, RUN))


def test_secrets_show_as_stars_and_their_names_are_not_in_the_script(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOKEN_OF_MINE", "hunter2")
    submission = SlurmBackend().render(dataclasses.replace(SMALL, secrets=["TOKEN_OF_MINE"]), RUN)
    assert "hunter2" not in str(submission)
    assert "TOKEN_OF_MINE=***" in str(submission)
    (text,) = submission.files.values()
    assert "TOKEN_OF_MINE" not in text


@pytest.mark.parametrize(
    ("extra", "hint"),
    [
        ({"nodes": 2}, "resources.nodes"),
        ({"time": "1:00"}, "resources.time_limit"),
        ({"cpus_per_task": 2}, "resources.cpus_per_proc"),
        ({"export": "ALL"}, "secrets"),
        ({"--nice": 1}, "without dashes"),
        ({"qos": "low"}, "slurm.qos"),
        ({"comment": "a\nb"}, "one line"),
        ({"licenses": {"a": 1}}, "mapping"),
    ],
)
def test_an_extra_option_with_a_place_of_its_own_is_refused(extra: dict[str, object], hint: str) -> None:
    job = dataclasses.replace(SMALL, slurm=Slurm(qos="high", extra=extra))  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=hint):
        options.sbatch_options(job, "out")


def test_a_folder_that_sbatch_cannot_write_to_is_refused() -> None:
    with pytest.raises(ConfigError, match="backslash"):
        script.render(SMALL, dataclasses.replace(RUN, url="/a\\b"), "/a\\b/slurm")


def test_a_template_of_the_site_takes_the_place_of_ours(tmp_path: Path) -> None:
    template = tmp_path / "site.sbatch"
    template.write_text("#!/bin/bash\n## left out\n{{ sbatch_options }}\nrun {{ run }}\n")
    job = dataclasses.replace(SMALL, slurm=Slurm(template=str(template)))
    text = script.render(job, HARD, "/f")
    assert text.startswith("#!/bin/bash\n#SBATCH --job-name=small\n")
    assert shlex.split(text.splitlines()[-1]) == ["run", HARD.url]


def test_an_unknown_place_in_a_template_is_named(tmp_path: Path) -> None:
    template = tmp_path / "site.sbatch"
    template.write_text("{{ partition }}\n")
    with pytest.raises(ConfigError, match="no place 'partition'"):
        script.render(dataclasses.replace(SMALL, slurm=Slurm(template=str(template))), RUN, "/f")


@pytest.mark.parametrize(("seconds", "expected"), [(1, "1"), (60, "1"), (61, "2"), (43_199, "720")])
def test_time_limits_are_whole_minutes(seconds: float, expected: str) -> None:
    assert options.minutes(Duration(seconds)) == expected


@given(st.text(st.characters(exclude_categories=["Cc", "Cs"]), min_size=1))
def test_any_text_of_one_line_is_read_back_by_sbatchs_rules(text: str) -> None:
    """Read as sbatch reads a line: double quotes, backslash escapes, nothing else."""
    word = options.quoted(("comment", text)).removeprefix("--comment=")
    read = []
    quoted = escaped = False
    for character in word:
        if escaped or (character not in '"\\'):
            assert quoted or escaped or not character.isspace()
            assert quoted or escaped or character != "#"
            read.append(character)
            escaped = False
        elif character == "\\":
            escaped = True
        else:
            quoted = not quoted
    assert "".join(read) == text
