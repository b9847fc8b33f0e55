"""The environment variables through which a supervisor talks to the ranks it starts, and a user to the launcher."""

RUN = "TORCHRELAY_RUN"  # URL of the run
ATTEMPT = "TORCHRELAY_ATTEMPT"  # number of the attempt, from 1
RESTART = "TORCHRELAY_RESTART"  # how often the gang was started again within the attempt, from 0
NODE = "TORCHRELAY_NODE"  # index of this node, from 0
REPORTS = "TORCHRELAY_REPORTS"  # node-local folder where ranks register and report failures
WORKDIR = "TORCHRELAY_WORKDIR"  # where relative paths start from on this node, if not where the run was started

STORAGE = "TORCHRELAY_STORAGE"  # default of --storage, set by the user
STORAGE_OPTIONS = "TORCHRELAY_STORAGE_OPTIONS"  # the options to reach it by, a JSON object without secrets

FOR_RANKS = (RUN, ATTEMPT, RESTART, NODE, REPORTS)
