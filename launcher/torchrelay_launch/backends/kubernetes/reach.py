"""Whether the pods can reach what the launcher can: a folder of this machine is not theirs."""

from pathlib import PurePosixPath

from torchrelay.contract.errors import ConfigError
from torchrelay_launch.spec.models import JobSpec, Volume

_OF_THE_MACHINE = ("file", "local")
_OF_ONE_POD = {"configMap", "downwardAPI", "emptyDir", "ephemeral", "image", "projected", "secret"}


def check_storage(job: JobSpec, url: str) -> None:
    """Raises: ConfigError, with the way out, for a storage that pods do not have."""
    scheme, found, rest = url.partition("://")
    if found and scheme == "memory":
        raise ConfigError(f"storage: {url} lives in this process only; pods need a bucket (s3://...) or a volume")
    if found and scheme not in _OF_THE_MACHINE:
        return
    path = PurePosixPath(rest if found else url)
    if not any(covers(volume.mount, path) for volume in job.kubernetes.volumes if _is_shared(volume)):
        raise ConfigError(
            f"storage: {path} is a folder of this machine, which pods do not have. Use a bucket (storage: s3://...) or "
            "mount a volume that holds the folder under the same path, such as "
            f"kubernetes.volumes: [{{name: runs, mount: {path.parent}, claim: CLAIM}}]"
        )


def _is_shared(volume: Volume) -> bool:
    """Whether what a pod writes there is seen elsewhere, as far as the spec tells."""
    own = volume.read_only or volume.empty_dir or volume.config_map or volume.secret
    return not own and not set(volume.source or {}) & _OF_ONE_POD


def covers(mount: str, path: PurePosixPath) -> bool:
    return path.is_relative_to(PurePosixPath(mount))
