#!/bin/bash
# deps: installs the Debian packages that are missing, and nothing when none is.
#   pipelines/deps.sh PACKAGE...
# A word such as a|b|c is content with any of the three, and installs the first. Asks nothing; says
# what it installs; touches no network where everything is there. Status 1, and the packages named,
# where it cannot install.
set -euo pipefail

fail() {
    printf 'deps: these Debian packages are missing and %s: %s\n' "$1" "${missing[*]}" >&2
    printf 'deps: install them by hand: apt-get install %s\n' "${missing[*]}" >&2
    exit 1
}

is_installed() {
    [ "$(dpkg-query -W -f '${db:Status-Status}\n' "$1" 2>/dev/null | head -n 1)" = installed ]
}

missing=()
if ! command -v dpkg-query >/dev/null; then
    # No Debian: ask for the commands only, since libraries go by other names elsewhere.
    for name in gcc g++ make; do command -v "$name" >/dev/null || missing=("${@%%|*}"); done
    [ ${#missing[@]} -eq 0 ] || fail 'this is no Debian system, so what they hold must come from elsewhere'
    printf 'deps: no Debian system; taken to be here: what these packages hold: %s\n' "$*" >&2
    exit 0
fi
for word in "$@"; do
    found=
    IFS='|' read -ra names <<<"$word"
    for name in "${names[@]}"; do
        if is_installed "$name"; then found=1; break; fi
    done
    [ -n "$found" ] || missing+=("${names[0]}")
done
[ ${#missing[@]} -gt 0 ] || exit 0

command -v apt-get >/dev/null || fail 'there is no apt-get'
root=()
if [ "$(id -u)" -ne 0 ]; then
    command -v sudo >/dev/null || fail 'this user is not root and there is no sudo'
    sudo true </dev/null || fail 'sudo refuses this user, or wants a password and has no terminal to ask on'
    root=(sudo)
fi
install() {
    "${root[@]}" env DEBIAN_FRONTEND=noninteractive \
        apt-get -o DPkg::Lock::Timeout=120 install -qq -y --no-install-recommends "${missing[@]}" </dev/null >"$log" 2>&1
}
log=$(mktemp)
trap 'rm -f "$log"' EXIT
printf 'installing: %s\n' "${missing[*]}"
# The package lists may be missing or old: refresh them only when the first try fails.
if ! install; then
    "${root[@]}" apt-get update -qq >"$log" 2>&1 || { tail -n 3 "$log" >&2; fail 'the package lists cannot be fetched (no network?)'; }
    install || { tail -n 5 "$log" >&2; fail 'apt-get failed as shown (no network?)'; }
fi
