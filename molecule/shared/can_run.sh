#!/bin/bash
# Say in one line why scenarios cannot run on this machine, and fail; say nothing where they can.
set -euo pipefail

export PATH=$PATH:/usr/sbin:/sbin
no() { echo "Molecule's scenarios cannot run here: $*" >&2; exit 1; }

[ "$(uname -s)" = Linux ] || no "podman needs Linux, this is $(uname -s)."
[ "$(id -u)" = 0 ] || no "the containers' addresses need root; you are $(id -un)."
programs="podman runc iptables ssh ssh-keygen"
[ -n "${MOLECULE_IMAGE:-}" ] || programs="$programs mmdebstrap"
for program in $programs; do
    command -v "$program" > /dev/null || no "$program is not installed."
done
for helper in netavark aardvark-dns; do
    [ -x /usr/lib/podman/$helper ] || [ -x /usr/libexec/podman/$helper ] || no "$helper is not installed."
done
# Where /run survives a reboot, so does podman's belief that its containers are up.
if [ "$(findmnt -n -o FSTYPE -T /run)" != tmpfs ] && [ -e /run/libpod/alive ]; then
    booted=$(awk '$1 == "btime" {print $2}' /proc/stat)
    if [ "$(stat -c %Y /run/libpod/alive)" -lt "$booted" ]; then rm -rf /run/libpod /run/containers /run/runc; fi
fi
if ! reason=$(podman info 2>&1 > /dev/null); then no "podman says: $(tail -n 1 <<< "$reason")"; fi
