#!/bin/sh
# `make demo`: builds the image of this folder and shows, with plain commands inside it, what a container is. Then nothing is left.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
if [ "$(id -u)" -ne 0 ]; then
    echo "the demo makes namespaces, mounts and control groups, which takes root: sudo make demo" >&2
    exit 1
fi
BOX_ROOT=$(mktemp -d "${TMPDIR:-/tmp}/box-demo.XXXXXX")
export BOX_ROOT
trap 'rm -rf "$BOX_ROOT"' EXIT

bold='' plain=''
if [ -t 1 ] && [ -z "${NO_COLOR:-}" ]; then
    bold=$(printf '\033[1m') plain=$(printf '\033[0m')
fi
say() { printf '\n%s== %s%s\n' "$bold" "$*" "$plain"; }
show() {
    printf '$'
    for word in "$@"; do
        case $word in
        *[!A-Za-z0-9_./:-]*) printf " '%s'" "$word" ;;
        *) printf ' %s' "$word" ;;
        esac
    done
    echo
    "$@"
}
count() { find "$@" 2>/dev/null | wc -l; }
groups_of_box() { count /sys/fs/cgroup/*/box/* /sys/fs/cgroup/box/* -maxdepth 0 -type d; }
mounts() { wc -l </proc/self/mountinfo; }

mounts_before=$(mounts)
groups_before=$(groups_of_box)

say "Build an image from programs of this machine: nothing is downloaded"
show box build "$here"
say "The same again: every step is known"
show box build "$here"
show box images

say "Run it"
show box run --rm hello

say "Its own host name, and its own process 1"
# shellcheck disable=SC2016 # the container's shell shall expand it
show box run --rm --hostname island hello sh -c 'echo "host name $(hostname), my process id $$"'
echo "(this machine is $(uname -n))"

say "A process table of its own: only what runs inside is there"
# shellcheck disable=SC2016
show box run --rm hello sh -c 'sleep 5 & for p in /proc/[0-9]*; do printf "%s: %s\n" "${p#/proc/}" "$(tr "\0" " " <$p/cmdline)"; done 2>/dev/null'

say "A root file system that it cannot leave"
show box run --rm hello sh -c 'cd /; cd ../../../../..; pwd; ls; ls /proc/1/root/'

say "Its own /proc, whose dangerous files are masked or read-only"
show box run --rm hello sh -c 'wc -c </proc/keys; echo 1 >/proc/sys/vm/drop_caches' || echo "(refused, as it should be)"

say "A fork bomb meets a limit of 20 processes"
# shellcheck disable=SC2016
show box run --rm --pids-limit 20 hello sh -c 'while :; do sleep 9 & echo -n "$((n += 1)) "; done 2>&1' ||
    echo "(refused: this machine did not notice)"

say "What it may do as root: 8 of 41 capabilities, no new privileges, a system call filter"
# shellcheck disable=SC2016
show box run --rm hello sh -c 'while read -r name value; do case $name in CapEff:|NoNewPrivs:|Seccomp:) echo "$name $value";; esac; done </proc/self/status'

say "Nothing is left"
left=$(count "$BOX_ROOT/containers" -mindepth 1)
echo "containers: $left, mounts: $(($(mounts) - mounts_before)), control groups: $(($(groups_of_box) - groups_before))"
[ "$left" -eq 0 ] && [ "$(mounts)" -eq "$mounts_before" ] && [ "$(groups_of_box)" -eq "$groups_before" ]
