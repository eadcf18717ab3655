#!/bin/bash
# usage: what a tool says of itself: --help, --version and a mistake; and its man page, which names
# the same options with the same arguments.
. "$(dirname "$0")/../tap.sh"

# "name ARG" a line, from the rows of --help.
from_help() { perl -ne 'printf "%s %s\n", $1, $2 // "" if /^  (?:-\w, |    )--(?:\[no-\])?([\w-]+)(?:=(\S+))?/'; }

# The same from the tags of the man page: lines that begin with the option, as mandoc sets them.
from_man() {
    mandoc -T ascii "$1" | perl -ne '
        s/.\x08//g;
        $in = /^(OPTIONS|DESCRIPTION)/ if /^\S/;
        printf "%s %s\n", $1, $2 // ""
            if $in and /^ {5,12}(?:-\w, ?)?--(?:\[no-\])?([\w-]+)(?:[= ]([A-Za-z0-9_|:,.-]+))?(?:\s|$)/'
}

for source in bin/*.c; do
    tool=$(basename "$source" .c)
    command -v "$tool" >/dev/null && grep -q 'int main(' "$source" || continue
    help=$("$tool" --help 2>/tmp/usage.$$)
    ok $? "$tool --help: status 0" "$(cat /tmp/usage.$$)"
    ok_none "$tool --help says nothing on stderr" "$(cat /tmp/usage.$$)"
    rm -f /tmp/usage.$$
    ok_none "$tool --help fits 100 columns" "$(awk 'length > 100' <<<"$help")"
    grep -qE "^$tool - ." <<<"$help" && grep -q "^usage: $tool " <<<"$help" && grep -q '^Examples:' <<<"$help"
    ok $? "$tool --help has purpose, usage and examples"
    ok_none "$tool: no option is listed twice" "$(from_help <<<"$help" | cut -d' ' -f1 | sort | uniq -d)"
    version=$("$tool" --version)
    [ $? -eq 0 ] && grep -q "^$tool (hm) [0-9]" <<<"$version" && grep -q '^commit ' <<<"$version" && grep -q 'cpu' <<<"$version"
    ok $? "$tool --version: version, commit, backends" "$version"
    said=$("$tool" --no-such-option </dev/null 2>&1 >/dev/null)
    [ $? -eq 2 ] && grep -q "^$tool: unknown option '--no-such-option'" <<<"$said" && grep -q "^try '$tool --help'" <<<"$said"
    ok $? "$tool: an unknown option is a usage error" "$said"

    page=man/$tool.1
    if [ -f "$page" ]; then
        ok_none "$tool.1 and --help name the same options" \
            "$(diff <(from_man "$page" | cut -d' ' -f1 | sort -u) <(from_help <<<"$help" | cut -d' ' -f1 | sort -u) | grep '^[<>]' | sed 's/^</only in the page:/; s/^>/only in --help:/')"
        ok_none "$tool.1 and --help give them the same arguments" \
            "$(join <(from_man "$page" | sort -u) <(from_help <<<"$help" | sort -u) | awk 'tolower($2) != tolower($3)')"
    else
        ok 1 "$tool has a man page" "man/$tool.1 is missing"
    fi
done
done_testing
