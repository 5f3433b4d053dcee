#!/bin/bash
# Tests what `make release` makes (`make test-release`):
# - Two clones at different paths give the same bytes.
# - The amd64 .deb installs, works, and purges without a trace.
# - The program of the arm64 .deb works on an arm64 kernel, in the lab.
# If the argument is a directory that `make release` has filled, only its contents are tested. This takes two minutes.
set -euo pipefail
cd "$(dirname "$0")/.."
work=$(mktemp -d)
trap 'rm -rf --one-file-system "$work"' EXIT
commit=$(git rev-parse HEAD)
fail() { echo "FAILED: $*" >&2; exit 1; }
# Reports a part that cannot be tested here. This is no failure.
skip() { echo "skipped: $*"; }

clone() { # directory: makes a clone and its release there, from the commit alone
    git clone -q . "$1"
    # The branch may move while this runs.
    git -C "$1" checkout -q "$commit"
    env -C "$1" -u CARGO_TARGET_DIR -u FAULTLINE_COMMIT_ID -u FAULTLINE_PAYLOAD -u SOURCE_DATE_EPOCH make -s release >"$work/log" 2>&1 ||
        { cat "$work/log" >&2; fail "make release in a clone"; }
}

same_twice() {
    [ -z "$(git status --porcelain)" ] || echo "note: the clones have the last commit, not what was changed since"
    clone "$work/one"
    # The second clone has another umask, path, time zone and locale.
    (umask 077 && mkdir "$work/somewhere" && export TZ=Pacific/Apia LC_ALL=C.UTF-8 && clone "$work/somewhere/else")
    diff "$work/one/target/dist/SHA256SUMS" "$work/somewhere/else/target/dist/SHA256SUMS" || fail "two clones made different files"
    "$work/one/target/dist/faultline-$(uname -m)" --version | grep -qx "faultline [0-9.]* (${commit:0:12})" || fail "--version"
    rm -rf "$work/somewhere"
    echo "the same from two clones:"
    cat "$work/one/target/dist/SHA256SUMS"
}

lab/setup packages
if [ $# -gt 0 ]; then
    dist=$(realpath "$1")
else
    same_twice
    dist=$work/one/target/dist
fi
(cd "$dist" && sha256sum --quiet -c SHA256SUMS && [ "$(ls | wc -l)" = $(($(wc -l <SHA256SUMS) + 1)) ]) || fail "SHA256SUMS"
! grep -aFq -e "$work" -e "$PWD" -e "$HOME/" "$dist"/faultline-* || fail "a path of this machine is in what is released"

list() { # root: lists its files, their types, modes and link targets; leaves out what dpkg records about its own work
    (cd "$1" && find . -xdev \( -path ./var/lib/dpkg -o -path ./var/log -o -path ./proc -o -path ./tmp \) -prune -o -printf '%p %y %m %l\n' |
        LC_ALL=C sort)
}

installed() { # root: installs the .deb there and tests that it does what it says
    local root=$1
    in_root() { chroot "$root" "$@"; }
    install -t "$root/tmp" "$dist"/faultline_*_amd64.deb
    in_root sh -c 'dpkg -i /tmp/faultline_*_amd64.deb' >"$work/dpkg"
    [ "$(in_root faultline --version)" = "$("$dist/faultline-x86_64" --version)" ] || fail "--version"
    cp -r crates/record/tests/runs "$root/tmp/"
    [ "$(in_root faultline list /tmp/runs | wc -l)" = 2 ] || fail "list"
    for page in $(in_root faultline --help | awk '/^  [a-z]/ && $1 != "help" {print $1}'); do
        LC_ALL=C.UTF-8 MANWIDTH=120 man --nj --nh -l "$root/usr/share/man/man1/faultline-$page.1.gz" >"$work/page"
        grep -q "faultline $page" "$work/page" || fail "no man page of $page"
    done
    bash -n "$root/usr/share/bash-completion/completions/faultline"
    # Nothing runs, and no timer will start anything.
    [ "$(systemctl --root="$root" is-enabled faultline-nightly.timer || true)" = disabled ] || fail "the timer is enabled"
    [ ! -e "$root/var/lib/faultline" ] || fail "there is state before anything ran"
    local said
    said=$(systemd-analyze verify --man=no --root="$root" faultline-nightly.service faultline-nightly.timer 2>&1) && [ -z "$said" ] ||
        fail "systemd-analyze: $said"
    # The nightly script must find the program. The program cannot run here, and its exit code must say so.
    local code=0
    in_root /usr/lib/faultline/nightly 2>"$work/night" || code=$?
    [ $code = 70 ] && grep -q 'needs an arm64 Linux host' "$work/night" || fail "nightly: exit code $code, $(cat "$work/night")"
    # Makes what use leaves behind: an enabled timer, results, and settings to put back.
    systemctl -q --root="$root" enable faultline-nightly.timer
    mkdir -p "$root/var/lib/systemd/timers"
    touch "$root/var/lib/systemd/timers/stamp-faultline-nightly.timer"
    cp -r crates/record/tests/runs "$root/var/lib/faultline"
    touch "$root/var/lib/faultline/settings.journal"
}

if [ "$(id -u)" != 0 ]; then
    skip "installing the .deb: it takes root to make a root"
elif [ "$(uname -m)" != x86_64 ]; then
    skip "installing the .deb: this machine does not run amd64 programs"
elif ! command -v debootstrap >/dev/null; then
    skip "installing the .deb: no debootstrap (apt-get install debootstrap)"
elif ! debootstrap --variant=minbase --include=systemd bookworm "$work/root" >"$work/log" 2>&1; then
    skip "installing the .deb: debootstrap failed: $(tail -n 1 "$work/log")"
else
    mkdir -p "$work/root/var/lib/systemd/timers"
    list "$work/root" >"$work/before"
    installed "$work/root"
    chroot "$work/root" dpkg --purge faultline >"$work/dpkg"
    list "$work/root" >"$work/after"
    diff "$work/before" "$work/after" || fail "purging left a trace"
    echo "the amd64 .deb installs, works and purges without a trace"
fi

dpkg-deb -x "$dist"/faultline_*_arm64.deb "$work/arm64"
dpkg-deb -x "$dist"/faultline_*_amd64.deb "$work/amd64"
cmp "$work/arm64/usr/bin/faultline" "$work/amd64/usr/lib/faultline/faultline-aarch64" || fail "the lab's program is another"
if [ "$(uname -m)" = x86_64 ]; then lab=$work/amd64; else lab=$work/arm64; fi
code=0
said=$(timeout -k 5 300 "$lab/usr/bin/faultline" lab --results "$work/results" --kernel debian:6.12 \
    --guest-runner "$work/arm64/usr/bin/faultline" --append 'hugepagesz=1G hugepages=1' -- doctor 2>"$work/log") || code=$?
[ $code = 0 ] && grep -q '^READY: ' <<<"$said" && grep -q 'machine  *aarch64 6.12' <<<"$said" ||
    fail "doctor in the lab: exit code $code: $said $(cat "$work/log")"
echo "the program of the arm64 .deb in the lab: $(grep '^READY: ' <<<"$said")"
# The plugin in the package counts, as it does in a source tree.
if [ "$(uname -m)" = x86_64 ]; then
    said=$(timeout -k 5 300 "$lab/usr/bin/faultline" lab --results "$work/results" --kernel debian:6.12 --count -- \
        run policy --blocks page,thp 2>"$work/log") || fail "--count from the package: $said $(cat "$work/log")"
    grep -q 'counted for' <<<"$said" || fail "--count from the package counts nothing: $said"
    echo "--count works from the amd64 .deb"
    tests/systemd-night "$dist"/faultline_*_arm64.deb
fi
