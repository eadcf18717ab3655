# tap: the Test Anything Protocol for shell checks; sourced by tests/check/*.sh, which run in the
# repository's root. ok STATUS NAME [DETAILS], skip NAME, done_testing.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
PATH=${HM_BUILD:-$PWD/build/last}/bin:$PATH
tap_n=0
tap_bad=0

ok() {
    tap_n=$((tap_n + 1))
    if [ "$1" -eq 0 ]; then
        echo "ok $tap_n - $2"
    else
        echo "not ok $tap_n - $2"
        tap_bad=$((tap_bad + 1))
        [ -z "${3:-}" ] || printf '%s\n' "$3" | head -n 20 | sed 's/^/# /'
    fi
}

# Passes when the text, a list of what is wrong, is empty.
ok_none() {
    [ -z "$2" ]
    ok $? "$1" "$2"
}

skip() {
    tap_n=$((tap_n + 1))
    echo "ok $tap_n - $1 # skip $2"
}

done_testing() {
    echo "1..$tap_n"
    [ "$tap_bad" -eq 0 ]
    exit $?
}
