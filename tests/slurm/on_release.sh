#!/usr/bin/env bash
# Runs the tests of Slurm with the Slurm and the Python of another release of Debian, in a root directory of its own:
#
#     tests/slurm/on_release.sh trixie [arguments of pytest]
#
# Needs root, debootstrap and about 8 GB below $TORCHRELAY_RELEASES, by default /var/tmp/torchrelay-releases. The first
# run installs what is needed there, the next ones find it. Mounts and processes end with this program.
set -euo pipefail

release=${1:?name a release of Debian, such as trixie}
shift
here=$(cd "$(dirname "$0")/../.." && pwd)
packages="slurm-wlm slurmdbd munge mariadb-server iproute2 procps python3-venv make git"

# shellcheck source=tests/harness/debian_root.sh
source "$here/tests/harness/debian_root.sh"
make_root "$release" "$release"
mkdir -p "$root$here"
export root here packages
# shellcheck disable=SC2016
exec unshare --mount --propagation private --pid --fork --kill-child bash -euc '
    mount -t proc proc "$root/proc"
    for folder in /dev /sys "$here"; do mount --rbind "$folder" "$root$folder"; done
    exec chroot "$root" bash -euc "$0" "$@"
' '
    export HOME=/root PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin LANG=C.UTF-8
    cd "$here"
    if [[ ! -e /.installed ]]; then
        DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $packages >/dev/null
        touch /.installed
    fi
    make --no-print-directory PYTHON=python3 VENV=/opt/torchrelay setup
    slurmctld -V
    /opt/torchrelay/bin/python --version
    exec /opt/torchrelay/bin/pytest -p no:cacheprovider tests/slurm "$@"
' "$@"
