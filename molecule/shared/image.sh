#!/bin/bash
# Build the image of the scenarios' hosts from the distribution's packages, unless it is there, and print its name.
set -euo pipefail

. /etc/os-release
export PATH=$PATH:/usr/sbin:/sbin
packages=systemd,systemd-sysv,dbus,python3,python3-apt,sudo,ca-certificates,iproute2,procps,openssh-server
# Only the distribution's own sources: what else the machine uses needs keys that the image has not.
sources=()
for file in /etc/apt/sources.list /etc/apt/sources.list.d/{debian,ubuntu}.sources; do
    if [ -e "$file" ] && grep -q '^\(deb \|Types:\)' "$file"; then sources+=("$file"); fi
done
# What this machine needs to reach the sources, the hosts need as well.
authorities=(/usr/local/share/ca-certificates/*.crt)
[ -e "${authorities[0]}" ] || authorities=()
proxies=$(env | grep -i -E '^(https?|no)_proxy=' | sort || true)
apt_proxies=$(apt-config dump | grep -i -E '^Acquire::https?::.*proxy' || true)

recipe=$(cat "$0" "${sources[@]}" "${authorities[@]}" <(echo "$VERSION_CODENAME $proxies $apt_proxies") | sha256sum)
repository=localhost/frameworks-database-host
image=$repository:${recipe:0:12}

exec 9>"${TMPDIR:-/tmp}/frameworks-database-image.lock"
flock 9  # scenarios that start at the same time build it once
if ! podman image exists "$image"; then
    outdated=$(podman images --quiet "$repository")
    scratch=$(mktemp -d)
    trap 'rm -rf "$scratch"' EXIT
    echo "$apt_proxies" > "$scratch/apt.conf"
    trust=()
    for file in "${authorities[@]}"; do trust+=("--customize-hook=copy-in $file /usr/local/share/ca-certificates"); done
    # The package lists stay, compressed: without them a module that finds them fresh by date finds no package.
    mmdebstrap --quiet --variant=minbase --mode=root --include="$packages" \
        --skip=cleanup/apt/lists,check/empty --format=tar \
        --aptopt="$scratch/apt.conf" --aptopt='Apt::Install-Recommends "false"' \
        --aptopt='Acquire::GzipIndexes "true"' --aptopt='Acquire::Languages "none"' \
        --dpkgopt=path-exclude='/usr/share/man/*' --dpkgopt=path-exclude='/usr/share/locale/*' \
        --dpkgopt=path-exclude='/usr/share/doc/*' \
        "${trust[@]}" --customize-hook='chroot "$1" update-ca-certificates' \
        --customize-hook="echo '$proxies' > \"\$1/etc/environment\"" \
        --customize-hook='chroot "$1" systemctl mask apt-daily.timer apt-daily-upgrade.timer e2scrub_all.timer \
            e2scrub_reap.service systemd-logind.service console-getty.service getty.target' \
        "$VERSION_CODENAME" "$scratch/image.tar" "${sources[@]}" >&2
    podman import --quiet --change 'CMD ["/lib/systemd/systemd"]' --change 'STOPSIGNAL SIGRTMIN+3' \
        --change 'ENV container=podman' "$scratch/image.tar" "$image" >&2
    # One that another checkout's containers use stays.
    [ -z "$outdated" ] || podman image rm $outdated >&2 || true
fi
echo "$image"
