"""Slurm: one batch script, one srun, one supervisor per node.

backend.py            render, submit, stop and cancel: what the launcher calls
options.py            job -> options of sbatch and srun
script.py             the batch script, from slurm/train.sbatch
shell_environment.py  the submitting shell's environment, in a file of mode 0600
client.py             sbatch, scontrol, sacct and scancel, and what their complaints mean
states.py             Slurm's words, as tables
partitions.py         which there are, and what each allows
watching.py           how an attempt stands, as Slurm sees it
job.py                what runs on the first node: claims the attempt, starts srun, decides how to go on
attempts.py           which attempt a job is for, and claiming the next
succession.py         handing the run to a new job, or to the same one again
meeting_point.py      address and port for the supervisors to meet
causes.py             what ended an attempt
policy.py             whether and how to go on
journal.py            what an attempt adds to its records
doctor.py             what `torchrelay doctor` looks at from here
allocation.py         and, where it is asked to, on the nodes
first_node.py         the job that does that
node_findings.py      what follows from what the nodes said
"""
