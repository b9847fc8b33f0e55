#!/usr/bin/env bash
# Runs the tests of S3, or another command, with the S3 of Ceph (radosgw) from a release of Debian:
#
#     tests/s3/on_ceph.sh sid                                     the tests of tests/s3
#     tests/s3/on_ceph.sh sid python benchmarks/run.py s3         or what is named here
#
# Needs root, debootstrap and about 2 GB below $TORCHRELAY_RELEASES, by default /var/tmp/torchrelay-releases. Objects are
# kept in memory, at most $TORCHRELAY_CEPH_GB of it, by default 10. One monitor, one manager, one OSD and one gateway, on the
# loopback only. The first run installs them, the next ones find them. Mounts and processes end with this program.
set -euo pipefail

release=${1:?name a release of Debian, such as trixie}
shift
here=$(cd "$(dirname "$0")/../.." && pwd)
gigabytes=${TORCHRELAY_CEPH_GB:-10}
packages="ceph-mon ceph-mgr ceph-osd ceph-common radosgw curl"

# shellcheck source=tests/harness/debian_root.sh
source "$here/tests/harness/debian_root.sh"
make_root "ceph-$release" "$release"
if [[ ! -e $root/.installed ]]; then
    # shellcheck disable=SC2086
    DEBIAN_FRONTEND=noninteractive chroot "$root" apt-get install -y -qq --no-install-recommends $packages >>"$root.log" 2>&1 ||
        { tail -n 20 "$root.log" >&2; exit 1; }
    touch "$root/.installed"
fi
install -m 755 "$here/tests/s3/ceph_server.sh" "$root/ceph_server.sh"

export root gigabytes
# shellcheck disable=SC2016
coproc server { exec unshare --mount --propagation private --pid --fork --kill-child bash -euc '
    mount -t proc proc "$root/proc"
    mount --rbind /dev "$root/dev"
    mkdir -p "$root/ceph"
    mount -t tmpfs -o "size=${gigabytes}g" tmpfs "$root/ceph"
    exec chroot "$root" /ceph_server.sh "$gigabytes"
'; }
# shellcheck disable=SC2154 # coproc sets it
server_pid=$server_PID
trap 'kill "$server_pid" 2>/dev/null || true' EXIT
read -r endpoint version <&"${server[0]}" || { echo "error: Ceph did not start; its logs are above" >&2; exit 1; }
echo "$version at $endpoint"

export TORCHRELAY_TEST_S3_ENDPOINT=$endpoint
cd "$here"
PATH=$here/.venv/bin:$PATH
if (($# == 0)); then set -- pytest -p no:cacheprovider tests/s3; fi
"$@"
