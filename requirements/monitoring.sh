#!/bin/sh
# Installs, on Debian, Prometheus with promtool, for tests of rules and metrics and for `zeroq run --monitor`.
# Idempotent; quiet. Needs root, or sudo that asks nothing. The package's own service is neither started nor enabled.
set -eu

fail() {
    echo "error: $1" >&2
    exit 1
}

command -v prometheus >/dev/null && command -v promtool >/dev/null && exit 0
command -v apt-get >/dev/null || fail "requirements/monitoring.sh installs with apt-get, which is not here; install prometheus and promtool by hand"
if [ "$(id -u)" = 0 ]; then
    as_root=
elif command -v sudo >/dev/null && sudo -n true 2>/dev/null; then
    as_root="sudo -n"
else
    fail "installing prometheus needs root; run 'sudo sh requirements/monitoring.sh'"
fi

log=$(mktemp)
policy=/usr/sbin/policy-rc.d # asked by every package before it starts a service; 101: do not
made_policy=
if [ ! -e "$policy" ]; then
    made_policy=yes
    printf '#!/bin/sh\nexit 101\n' | $as_root tee "$policy" >/dev/null
    $as_root chmod 755 "$policy"
fi
clean_up() {
    rm -f "$log"
    [ -z "$made_policy" ] || $as_root rm -f "$policy"
}
trap clean_up EXIT
trap 'exit 1' INT TERM
quietly() {
    "$@" >"$log" 2>&1 || {
        cat "$log" >&2
        fail "'$*' failed; see above"
    }
}

echo "installing prometheus"
quietly $as_root apt-get update -qq
quietly $as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends prometheus
if command -v systemctl >/dev/null && [ -d /run/systemd/system ]; then
    quietly $as_root systemctl disable --now prometheus
fi
