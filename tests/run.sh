#!/bin/bash
# The one test command: everything that a change must pass.
#
#   bash tests/run.sh            all of it; as root it installs what is missing
#   bash tests/run.sh SECTION..  only these: packages lint unit fuzz mounts oracle pjdfstest
#
# As an ordinary user, the tests that need root say SKIP. With CI set (or
# IDMAPFS_NO_SKIP=1) a skip is a failure, but for the features that
# IDMAPFS_MAY_SKIP lists by commas.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 1

packages=(acl attr bindfs btrfs-progs buildah bzip2 catatonit crun dbus distrobox e2fsprogs erofs-utils fuse-overlayfs fuse3 gcc
          gdisk libc6-dev libcap2-bin lz4 lzip lzop mount podman podman-toolbox quota rsync squashfs-tools systemd
          systemd-container uidmap util-linux xfsprogs xz-utils zstd)
pjdfstest_version=0.2.2
target=${CARGO_TARGET_DIR:-$PWD/target}
export IDMAPFS_PJDFSTEST=$target/pjdfstest/bin/pjdfstest
export PATH=$PATH:/usr/sbin:/sbin
sections=(packages lint unit fuzz mounts oracle pjdfstest)
summary=()

section_packages() {
    local missing=() package
    for package in "${packages[@]}"; do
        [[ $(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null) == installed ]] ||
            missing+=("$package")
    done
    if ((${#missing[@]})); then
        if ((EUID)); then
            echo "missing, and only root can install: ${missing[*]}"
            return 0
        fi
        apt-get update -qq >/dev/null &&
            DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends \
                "${missing[@]}" >/dev/null || return
    fi
    ((EUID)) && return 0
    # fusermount3 asks for it; systemd makes it, but not every machine runs systemd.
    [[ -e /etc/mtab ]] || ln -s ../proc/self/mounts /etc/mtab || return
    [[ -e /dev/fuse ]] || modprobe fuse 2>/dev/null || mknod -m 666 /dev/fuse c 10 229
    [[ -e /dev/loop-control ]] || modprobe loop 2>/dev/null || mknod /dev/loop-control c 10 237
}

# Each format of images can be left out: with one alone it builds, and without any.
section_lint() {
    local formats
    cargo fmt --check && cargo clippy --all-targets --locked -- -D warnings || return
    for formats in "" erofs ext4 squashfs; do
        cargo clippy --locked --no-default-features --features "$formats" -- -D warnings || return
    done
}

# Every harness but those with a section of their own.
section_unit() {
    local harness arguments=()
    for harness in tests/*.rs; do
        harness=$(basename "$harness" .rs)
        [[ $harness == mount || $harness == fuzz ]] || arguments+=(--test "$harness")
    done
    cargo test --locked --lib --bins "${arguments[@]}" && cargo test --locked --doc
}

# Each target for so many seconds, all at once, with what they reach counted.
section_fuzz() {
    local test failed=0 running=()
    local -x IDMAPFS_FUZZ_SECONDS=${IDMAPFS_FUZZ_SECONDS:-60}
    local -x RUSTC_WORKSPACE_WRAPPER=$PWD/tests/fuzz/rustc.sh
    local run=(cargo test --locked --profile fuzz --test fuzz)
    "${run[@]}" --no-run || return
    for test in acls::acls policies::policies words::words images::{ext4,squashfs,erofs}; do
        "${run[@]}" --quiet -- --exact "fuzz::$test" --nocapture &
        running+=($!)
    done
    for test in "${running[@]}"; do
        wait "$test" || failed=1
    done
    return $failed
}

section_mounts() {
    # How much the host changes under a mount, which otherwise goes by the clock.
    local -x IDMAPFS_CHANGES=${IDMAPFS_CHANGES:-1000000}
    cargo test --locked --test mount -- --skip mount::oracle:: --skip mount::pjdfstest::
}

section_oracle() {
    cargo test --locked --test mount mount::oracle:: -- --nocapture --test-threads 2
}

section_pjdfstest() {
    if [[ $("$IDMAPFS_PJDFSTEST" --version 2>/dev/null) != *"$pjdfstest_version" ]]; then
        CARGO_TARGET_DIR=$target/pjdfstest-build cargo install pjdfstest --locked --force \
            --version "$pjdfstest_version" --root "$target/pjdfstest" || return
    fi
    cargo test --locked --test mount mount::pjdfstest:: -- --nocapture
}

finish() {
    printf '\n===== summary =====\n'
    ((${#summary[@]})) && printf '%s\n' "${summary[@]}"
    exit "$1"
}

(($#)) && sections=("$@")
for section in "${sections[@]}"; do
    if ! declare -F "section_$section" >/dev/null; then
        echo "no section $section; there are: packages lint unit fuzz mounts oracle pjdfstest" >&2
        exit 2
    fi
done
for section in "${sections[@]}"; do
    printf '\n===== %s =====\n' "$section"
    started=$SECONDS
    if "section_$section"; then
        summary+=("ok      $section ($((SECONDS - started)) s)")
    else
        summary+=("FAILED  $section ($((SECONDS - started)) s)")
        finish 1
    fi
done
finish 0
