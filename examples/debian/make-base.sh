#!/bin/sh
# make-base.sh [FILE [CODENAME]]: a small Debian root file system as a tar, of this machine's release unless said otherwise, from the
# mirrors that this machine's apt uses. FILE's end says how it is compressed: .tar, .tar.gz, .tar.xz, .tar.zst.
# The same packages give the same bytes on any day. Takes root, or user namespaces.
set -eu

file=${1:-$(dirname "$0")/debian.tar.zst}
release=${2:-$(sed -n 's/^VERSION_CODENAME=//p' /etc/os-release)}
SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-315532800}
export SOURCE_DATE_EPOCH

command -v mmdebstrap >/dev/null || {
    echo "mmdebstrap is not installed: apt-get install mmdebstrap" >&2
    exit 1
}

# Only Debian's own part of what apt is told to use, in whichever form it was told; nothing, where there is none: mmdebstrap knows
# its way then.
# shellcheck disable=SC2016 # apt fills these in
mirrors=$(apt-get indextargets --format 'deb $(REPO_URI) $(RELEASE) $(COMPONENT)' \
    'Identifier: Packages' 'Origin: Debian' 'Component: main' "Codename: $release" | sort -u)

# Written beside its place and renamed, so that a base is whole or not there.
draft=$(dirname "$file")/.draft-$$-$(basename "$file")
trap 'rm -f "$draft"' EXIT
trap 'exit 1' HUP INT TERM
if [ -n "$mirrors" ]; then
    echo "$mirrors" | mmdebstrap --quiet --variant=minbase "$release" "$draft" -
else
    mmdebstrap --quiet --variant=minbase "$release" "$draft"
fi
mv "$draft" "$file"
