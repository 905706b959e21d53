#!/bin/sh
# Installs, on Debian, the compilers and interpreters that graded programs may need: exactly what is missing.
# Idempotent; quiet; quick when all is there. Needs root, or sudo that asks nothing.
set -eu

# The last releases whose compiler is a JavaScript library, which evaluator/sandbox/compilers/ts_server.js loads, are 5.x.
TYPESCRIPT=5.9.3
NODE_MODULES=/usr/local/lib/node_modules

fail() {
    echo "error: $1" >&2
    exit 1
}

packages=
want() { # want PACKAGE: a Debian package, unless it is installed
    dpkg-query -W -f '${Status}' "$1" 2>/dev/null | grep -q 'ok installed' || packages="$packages $1"
}

command -v apt-get >/dev/null || fail "requirements/languages.sh installs with apt-get, which is not here; install g++, a JDK, node, php, mono and bash by hand"

command -v g++ >/dev/null || want g++
command -v javac >/dev/null || want openjdk-17-jdk-headless
command -v node >/dev/null || want nodejs
want libssl-dev # HumanEval-X's CPP/162
want php-cli
want php-mbstring
want mono-mcs
want mono-runtime
want libmono-system-numerics4.0-cil
command -v bash >/dev/null || want bash
installed=$(sed -n 's/^ *"version": *"\([^"]*\)".*/\1/p' "$NODE_MODULES/typescript/package.json" 2>/dev/null || true)
[ "$installed" = "$TYPESCRIPT" ] || command -v npm >/dev/null || want npm

[ -z "$packages" ] && [ "$installed" = "$TYPESCRIPT" ] && exit 0

if [ "$(id -u)" = 0 ]; then
    as_root=
elif command -v sudo >/dev/null && sudo -n true 2>/dev/null; then
    as_root="sudo -n"
else
    fail "installing${packages:+$packages} typescript@$TYPESCRIPT needs root; run 'sudo sh requirements/languages.sh'"
fi

log=$(mktemp)
trap 'rm -f "$log"' EXIT
quietly() {
    "$@" >"$log" 2>&1 || {
        cat "$log" >&2
        fail "'$*' failed; see above"
    }
}

if [ -n "$packages" ]; then
    echo "installing$packages"
    quietly $as_root apt-get update -qq
    quietly $as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $packages
fi
if [ "$installed" != "$TYPESCRIPT" ]; then
    echo "installing typescript@$TYPESCRIPT into $NODE_MODULES"
    quietly $as_root npm install --global --prefix /usr/local --silent --no-audit --no-fund --ignore-scripts "typescript@$TYPESCRIPT"
fi
