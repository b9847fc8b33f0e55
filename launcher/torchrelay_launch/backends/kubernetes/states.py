"""Kubernetes' words for the states of jobs and pods, and what they mean here: literal tables."""

from torchrelay.contract.exit_codes import RunState

# type of a condition that is True, of a Job, JobSet or TrainJob that is over -> the run's state
FINISHED = {"Complete": RunState.COMPLETED, "Completed": RunState.COMPLETED, "Failed": RunState.FAILED}
FAILING = "FailureTarget"  # of a Job: it is decided that it fails, and its pods are being ended

# status.phase of a pod
PHASES = {
    "Pending": RunState.PENDING,
    "Running": RunState.RUNNING,
    "Succeeded": RunState.COMPLETED,
    "Failed": RunState.FAILED,
    "Unknown": RunState.RUNNING,
}

# why a container waits -> what that is for people; those in STUCK will not pass by themselves
WAITING = {
    "ContainerCreating": "being set up (image, volumes)",
    "PodInitializing": "being set up",
    "ErrImagePull": "the image cannot be pulled",
    "ImagePullBackOff": "the image cannot be pulled",
    "ErrImageNeverPull": "the image is not on the node, and kubernetes.image_pull_policy is Never",
    "InvalidImageName": "the image's name is invalid",
    "ImageInspectError": "the image is damaged",
    "RegistryUnavailable": "the registry does not answer",
    "CreateContainerConfigError": "its configuration is wrong (a Secret or ConfigMap that is not there, or a user)",
    "CreateContainerError": "it cannot be created",
    "RunContainerError": "it cannot be started",
    "CrashLoopBackOff": "it crashes again and again",
}
STUCK = {
    "ErrImagePull",
    "ImagePullBackOff",
    "ErrImageNeverPull",
    "InvalidImageName",
    "ImageInspectError",
    "CreateContainerConfigError",
    "CreateContainerError",
    "RunContainerError",
}

# why a container ended, or a pod
ENDED = {
    "OOMKilled": "killed for memory: raise resources.memory",
    "Evicted": "evicted",
    "Preempting": "preempted",
    "Preempted": "preempted",
    "NodeShutdown": "its node was shut down",
    "NodeLost": "its node was lost",
    "Terminated": "terminated with its node",
    "DeadlineExceeded": "past its deadline",
    "ContainerCannotRun": "the container cannot run",
    "StartError": "the command cannot be started",
    "Shutdown": "its node was shut down",
    "UnexpectedAdmissionError": "the node refused it",
    "Error": "failed",
    "Completed": "completed",
}
# reason of the condition DisruptionTarget
DISRUPTIONS = {
    "PreemptionByScheduler": "preempted by another pod",
    "DeletionByTaintManager": "removed from a tainted node",
    "EvictionByEvictionAPI": "evicted",
    "DeletionByPodGC": "its node was lost",
    "TerminationByKubelet": "evicted by its node",
}
EXIT_CODES = {
    75: "stopped with a checkpoint",
    76: "superseded by a newer attempt",
    78: "the spec, an import or the configuration is wrong",
    130: "stopped by a user",
    137: "killed",
    143: "terminated",
}
