"""The verbs of the command line, for its overview, its dispatch and completion."""

# verb -> (what follows it, what it does); its module is torchrelay_launch.commands.VERB
VERBS = {
    "validate": ("JOB...", "check job specs and show every mistake in them"),
    "render": ("JOB", "print what would be run and submitted, exactly"),
    "run": ("JOB", "start a job and follow it until it ends"),
    "submit": ("JOB", "start a job and return; prints the run's URL"),
    "ls": ("[STORAGE]", "list the runs in a storage, newest first"),
    "status": ("RUN", "show in one line how a run is doing"),
    "describe": ("RUN", "show everything about a run"),
    "logs": ("RUN", "print what the ranks of a run printed"),
    "checkpoints": ("ACTION RUN", "list, verify, compare or prune a run's checkpoints"),
    "stop": ("RUN", "save a checkpoint, then stop"),
    "cancel": ("RUN", "stop now, without saving"),
    "resume": ("RUN", "go on from the newest checkpoint"),
    "doctor": ("[JOB]", "check what a backend needs"),
    "scale": ("RUN N", "change the number of nodes of an elastic run"),
    "completion": ("SHELL", "print a completion script for bash, zsh or fish"),
}
GROUPS = (
    ("from a job spec", ("validate", "render", "run", "submit", "doctor")),
    ("look at runs", ("ls", "status", "describe", "logs", "checkpoints")),
    ("act on a run", ("stop", "cancel", "resume", "scale")),
    ("the shell", ("completion",)),
)
