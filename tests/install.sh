#!/usr/bin/env bash
# Installs what the tests need from Debian's or Ubuntu's own packages: slurmctld, slurmd, slurmdbd with MariaDB and munge
# for a real Slurm, iproute2 for pods in networks of their own, openssl for a certificate. Does nothing when all of it is
# there. Starts no service: the tests start daemons of their own.
set -euo pipefail

programs=(slurmctld slurmd slurmdbd sbatch sacct munged mariadbd mariadb-install-db ip openssl)
packages=(slurm-wlm slurmdbd munge mariadb-server iproute2 openssl)

missing() {
    local program
    for program in "${programs[@]}"; do
        PATH="$PATH:/usr/sbin:/sbin" command -v "$program" >/dev/null || echo "$program"
    done
}

absent=$(missing | paste -sd ' ')
if [[ -z $absent ]]; then
    exit 0
fi
echo "the tests need: $absent"
if ! command -v apt-get >/dev/null; then
    echo "error: there is no apt-get here; install Slurm, slurmdbd, munge, MariaDB and iproute2, then run this again" >&2
    exit 1
fi
as_root=()
if ((EUID != 0)); then
    as_root=(sudo)
    command -v sudo >/dev/null || { echo "error: not root, and there is no sudo: run $0 as root once" >&2; exit 1; }
fi

# Packages start their daemons when they are installed, unless this file forbids it.
policy=/usr/sbin/policy-rc.d
if [[ ! -e $policy ]]; then
    trap '"${as_root[@]}" rm -f "$policy"' EXIT
    printf '#!/bin/sh\nexit 101\n' | "${as_root[@]}" tee "$policy" >/dev/null
    "${as_root[@]}" chmod 755 "$policy"
fi
echo "installing ${packages[*]} with apt-get"
"${as_root[@]}" apt-get update -qq
"${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${packages[@]}" >/dev/null

absent=$(missing | paste -sd ' ')
if [[ -n $absent ]]; then
    echo "error: still missing after the installation: $absent" >&2
    exit 1
fi
