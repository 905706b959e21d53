# Trusted driver for Bash test code. This shell runs the tests and never the program: the functions that the tests call
# are stand-ins which start another bash that sources the program, makes the call and prints. So nothing that the
# program redefines, traps or exits reaches the tests, and neither the nonce nor the expected answers are in its process.
# Limit: what a call changes (variables) is gone after it, as it is in the $(...) that MultiPL-E's tests use.
{
    IFS= read -r zq_nonce
    zq_tests=$(<tests.sh)
    rm -f -- tests.sh driver.sh
    exec </dev/null
    [[ ${#zq_nonce} == 32 ]] || exit 1
    zq_call() {
        "$BASH" --norc --noprofile -c 'source ./program.sh >/dev/null; "$@"' bash "$@"
    }
    zq_end() {
        local zq_status=$?
        [[ $zq_status == 0 && $zq_done == yes ]] && { printf '\n%s\n' "$zq_nonce"; exit 0; }
        [[ $zq_done == yes || $zq_status != 0 ]] && "$BASH" --norc --noprofile -n ./program.sh && exit 81
        exit 1
    }
    zq_done=no
    trap zq_end EXIT
    eval "$zq_tests"
    zq_done=yes
    exit 0
}
