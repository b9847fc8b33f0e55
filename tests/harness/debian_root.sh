# shellcheck shell=bash
# A root directory with another release of Debian in it. To be sourced; makes and finds what is below $TORCHRELAY_RELEASES.

# make_root NAME RELEASE: sets `root`, and makes it unless it is there. Needs root and debootstrap.
make_root() {
    local release=$2 file program
    root=${TORCHRELAY_RELEASES:-/var/tmp/torchrelay-releases}/$1
    for program in debootstrap unshare; do
        command -v "$program" >/dev/null || { echo "error: $program is missing; apt-get install debootstrap util-linux" >&2; exit 1; }
    done
    ((EUID == 0)) || { echo "error: a root directory is made by root: sudo $0 $release" >&2; exit 1; }
    if [[ ! -e $root/.installed ]]; then
        echo "making $root, which takes some minutes"
        rm -rf --one-file-system "$root"
        mkdir -p "$root"
        debootstrap --variant=minbase "$release" "$root" >"$root.log" || { tail -n 20 "$root.log" >&2; exit 1; }
        printf '#!/bin/sh\nexit 101\n' >"$root/usr/sbin/policy-rc.d" # packages start their daemons otherwise
        chmod 755 "$root/usr/sbin/policy-rc.d"
    fi
    for file in /etc/resolv.conf /etc/hosts /etc/pip.conf /etc/ssl/certs/ca-certificates.crt; do # to reach the network as here
        [[ ! -e $file ]] || install -D "$file" "$root$file"
    done
}
