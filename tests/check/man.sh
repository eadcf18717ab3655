#!/bin/bash
# man: every page is clean mdoc, and every example of a section-1 page runs. An example is a line of
# the EXAMPLES section that begins with "$ "; lines that end in a backslash go on. Those of one page
# run in order in one scratch folder, which tests/fixture.sh fills with a tiny corpus, tokenizer,
# shards and model.
. "$(dirname "$0")/../tap.sh"

for page in man/*.[157]; do
    ok_none "$(basename "$page") is clean" "$(mandoc -T lint -W warning "$page" 2>&1)"
done

examples() {
    mandoc -T ascii -O width=1000 "$1" | perl -ne '
        s/.\x08//g;
        $in = /^EXAMPLES/ if /^\S/;
        if ($more and s/^\s+//) { print }
        elsif ($in and s/^\s+\$ //) { print }
        else { next }
        $more = /\\$/;'
}

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
n_pages=0
for page in man/*.1; do
    tool=$(basename "$page" .1)
    command -v "$tool" >/dev/null || continue
    n_pages=$((n_pages + 1))
    text=$(examples "$page")
    [ -n "$text" ]
    ok $? "$tool.1 has examples" || continue
    mkdir "$scratch/$tool"
    if ! said=$(tests/fixture.sh "$scratch/$tool" 2>&1); then
        ok 1 "the fixture for $tool.1" "$said"
        continue
    fi
    command=
    while IFS= read -r line; do
        command+=$line$'\n'
        [[ $line != *\\ ]] || continue
        said=$(cd "$scratch/$tool" && timeout 60 bash -o pipefail -c "$command" </dev/null 2>&1 | tr -d "\0")
        status=$?
        # 141: a reader such as head had enough.
        [ "$status" -eq 0 ] || [ "$status" -eq 141 ]
        ok $? "$tool.1: $(head -n 1 <<<"$command")" "$said"
        command=
    done <<<"$text"
done
[ "$n_pages" -gt 0 ] || skip 'examples' 'no tool is built'
done_testing
