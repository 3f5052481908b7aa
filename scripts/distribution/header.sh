#!/bin/sh
# pgbastion in one file: this script, and behind it an archive with all that it needs.
# It is unpacked once, into a directory named after its content.
set -eu

if [ "$(uname -m)" != "@MACHINE@" ]; then
    echo "pgbastion: this file is for @MACHINE@, the machine is $(uname -m)" >&2
    exit 69
fi
if [ -n "${PGBASTION_UNPACK_DIR:-}" ]; then
    base=$PGBASTION_UNPACK_DIR
elif [ "$(id -u)" = 0 ]; then
    base=/var/cache/pgbastion
else
    base=${XDG_CACHE_HOME:-${HOME:?}/.cache}/pgbastion
fi
home=$base/@CONTENT@
if [ ! -d "$home" ]; then
    umask 022
    mkdir -p "$base"
    fresh=$(mktemp -d "$base/.unpacking-XXXXXX")
    trap 'rm -rf "$fresh"' EXIT
    tail -n +@LINES@ "$0" | tar -xzf - -C "$fresh"
    chmod 0755 "$fresh"
    # Whoever comes second finds it there, and is content.
    mv -T "$fresh" "$home" 2>/dev/null || [ -d "$home" ]
    rm -rf "$fresh"
    trap - EXIT
fi
exec "$home/bin/@PYTHON@" -I -m pgbastion "$@"
