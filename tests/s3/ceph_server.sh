#!/usr/bin/env bash
# A Ceph of one of each daemon with an S3 gateway, in the root directory that on_ceph.sh makes. Prints the endpoint and
# the version once the gateway answers, and ends when its standard input does.
set -euo pipefail

gigabytes=$1
monitor="[v2:127.0.0.1:13300/0,v1:127.0.0.1:13301/0]"
port=17480
export CEPH_CONF=/ceph/ceph.conf LC_ALL=C
mkdir -p /ceph/{mon,mgr,osd,log,run}
trap 'status=$?; ((status == 0)) || tail -n 20 /ceph/log/* >&2; kill $(jobs -p) 2>/dev/null || true' EXIT

cat >"$CEPH_CONF" <<END
[global]
fsid = $(cat /proc/sys/kernel/random/uuid)
mon host = $monitor
mon initial members = a
mon allow pool size one = true
mon max pg per osd = 3000
public network = 127.0.0.0/8
keyring = /ceph/keyring
log file = /ceph/log/\$name.log
admin socket = /ceph/run/\$name.\$pid.asok
run dir = /ceph/run
mon data = /ceph/mon
mgr data = /ceph/mgr
osd data = /ceph/osd
bluestore block size = $(((gigabytes - 1) << 30))
osd memory target = 1073741824
osd crush chooseleaf type = 0
osd pool default size = 1
osd pool default min size = 1
osd pool default pg num = 8
osd pool default pg autoscale mode = off
rgw frontends = beast endpoint=127.0.0.1:$port
rgw dynamic resharding = false
rgw gc obj min wait = 1
rgw gc processor period = 5
rgw gc processor max time = 5
END

key() { ceph-authtool /ceph/keyring "$@"; }
{
    key --create-keyring --gen-key -n mon. --cap mon "allow *"
    key --gen-key -n client.admin --cap mon "allow *" --cap osd "allow *" --cap mgr "allow *"
    key --gen-key -n mgr.x --cap mon "allow profile mgr" --cap osd "allow *"
    key --gen-key -n osd.0 --cap mon "allow profile osd" --cap mgr "allow profile osd" --cap osd "allow *"
    ceph-mon --mkfs -i a --keyring /ceph/keyring --public-addrv "$monitor"
    ceph-mon -f -i a --public-addrv "$monitor" &
    timeout 60 ceph auth import -i /ceph/keyring
    uuid=$(cat /proc/sys/kernel/random/uuid)
    ceph osd new "$uuid"
    ceph-osd --mkfs -i 0 --osd-uuid "$uuid"
    ceph osd crush add-bucket here host
    ceph osd crush add osd.0 1.0 root=default host=here
    ceph-osd -f -i 0 &
    ceph-mgr -f -i x &
    until ceph osd stat | grep -q "1 up"; do sleep 0.5; done
    timeout 120 radosgw-admin user create --uid=tests --display-name=tests --access-key=testing --secret-key=never-written-down-0123456789abcdef
    radosgw -f -n client.admin &
    for _ in {1..120}; do
        curl -s -o /dev/null "http://127.0.0.1:$port" && break
        sleep 0.5
    done
} >/ceph/log/start 2>&1 </dev/null
curl -s -o /dev/null "http://127.0.0.1:$port"
echo "http://127.0.0.1:$port $(ceph --version)"
cat >/dev/null
