#!/usr/bin/env bash
# Build the CPU image from Debian's packages, without an image registry, and unpack it into a folder. As root:
#
#   apt-get install buildah mmdebstrap charliecloud
#   containers/trial_image.sh FOLDER
#   HPC_JEPA_IMAGE=FOLDER pytest tests/slurm/test_container.py      one job of the trial cluster runs in it
#
# BUILD_OPTIONS: further options of `buildah bud`, for example --volume for a pip.conf or a certificate of the site.
set -euo pipefail
cd "$(dirname "$0")/.."
image=$(realpath -m "$1")
[[ ! -e $image ]] || { echo "error: $image: exists; remove it or name another folder" >&2; exit 1; }
work=$(mktemp -d)
export BUILDAH_ISOLATION=chroot CONTAINERS_STORAGE_CONF=$work/storage.conf
printf '[storage]\ndriver = "vfs"\nrunroot = "%s/run"\ngraphroot = "%s/storage"\n' "$work" "$work" >"$work/storage.conf"
trap 'buildah umount --all >/dev/null; rm -rf "$work"' EXIT

mmdebstrap --variant=minbase --include=ca-certificates bookworm "$work/base.tar"
base=$(buildah from scratch)
buildah add --quiet "$base" "$work/base.tar" / >/dev/null
buildah commit --quiet --rm "$base" hpc_jepa-base >/dev/null
read -ra options <<<"${BUILD_OPTIONS:-}"
buildah bud --pull=never --network=host --layers=false "${options[@]}" --file containers/Containerfile \
  --build-arg BASE=localhost/hpc_jepa-base --build-arg EXTRA=cpu --tag hpc_jepa:cpu .
cp -a "$(buildah mount "$(buildah from --pull=never localhost/hpc_jepa:cpu)")" "$image"
