# helper: what the tests of the tools share. In a test file:
#   load helper
#   setup() { fixture; }      makes $BATS_TEST_TMPDIR a copy of the tiny fixture, and goes there
# See tests/fixture.sh for what it holds.

bats_require_minimum_version 1.5.0
# `make test` says where the build is; by hand it is the last one.
PATH=${HM_BUILD:-$BATS_TEST_DIRNAME/../../build/last}/bin:$PATH

# The tools that are built, in the order of the road.
tools() {
    local tool
    for tool in tok-train tok-encode shard hm-train hm-eval hm-gen hm-bench; do
        command -v "$tool" >/dev/null && echo "$tool"
    done
    return 0
}

fixture() {
    "$BATS_TEST_DIRNAME/../fixture.sh" "$BATS_TEST_TMPDIR" && cd "$BATS_TEST_TMPDIR"
}

# Fails, showing both, unless the last run's output (stdout and stderr) has the text.
says() {
    [[ $output == *"$1"* ]] || {
        printf 'wanted: %s\ngot (status %s): %s\n' "$1" "$status" "$output" >&2
        return 1
    }
}

# Fails unless no temporary file of an output stands in the folder.
no_leftovers() {
    local left
    left=$(find "${1:-.}" -name '*.tmp-*')
    [ -z "$left" ] || {
        echo "left behind: $left" >&2
        return 1
    }
}
