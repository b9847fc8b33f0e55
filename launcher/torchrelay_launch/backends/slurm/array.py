"""The array job of a sweep: one submission, in which each task becomes the batch script of one run.

A task runs the script that its run would have been submitted with, so that whatever follows, a requeue, a new job after
a stop, the end, is that run's own. Only the first start comes from the array.
"""

import dataclasses
import shlex
from collections.abc import Callable, Sequence

from torchrelay_launch.backends.base import Command, RunRef, Submission, Together
from torchrelay_launch.backends.slurm import options, script

TEMPLATE = "sweep.sbatch"
MARK = "POINT"  # stands for the number of a point while paths are made


def together(
    submissions: Sequence[Submission], sweep: RunRef, at_once: int | None, folder_of: Callable[[RunRef], str]
) -> Together | None:
    """The array that starts the first attempts of all runs of a sweep, in the order of its points. Pure.

    None where the runs ask Slurm for different things, have a template that may do so, or want no array.
    Raises: ConfigError.
    """
    asked = [options.sbatch_options(one.job, "") for one in submissions]
    wanted = all(one.job.slurm.array and one.job.slurm.template is None for one in submissions)
    if not wanted or any(one != asked[0] for one in asked):
        return None
    marked = dataclasses.replace(sweep, run_id=f"{sweep.run_id}-{MARK}", url=f"{sweep.url}-{MARK}")
    before, _, after = folder_of(marked).rpartition(MARK)
    output = options.file_pattern(before) + "%3a" + options.file_pattern(after) + "/job-%A_%a.out"
    limit = f"%{at_once}" if at_once else ""
    own = [("array", f"1-{len(submissions)}{limit}"), *options.sbatch_options(submissions[0].job, output)]
    values = {
        "sbatch_options": "\n".join(f"#SBATCH {options.quoted(one)}" for one in own),
        "before": shlex.quote(before),
        "after": shlex.quote(script.script_file(after, 1)),
    }
    path = f"{folder_of(sweep)}/sweep.sbatch"
    command = Command(f"submit all {len(submissions)} runs", ("sbatch", "--parsable", path))
    return Together(command, {path: script.fill(script.shipped(TEMPLATE), values)})
