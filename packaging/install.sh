#!/bin/sh
# Installs a built tree below $DESTDIR; see packaging/README.md.
set -eu

cd "$(dirname "$0")/.."
root=${DESTDIR:-}
binary=${BINARY:-target/release/idmapfs}

install -D -m 755 "$binary" "$root/usr/bin/idmapfs"
mkdir -p "$root/sbin"
for name in mount.idmapfs mount.fuse.idmapfs; do
    # Not relative: where /sbin is a link to /usr/sbin that would lead elsewhere.
    ln -sf /usr/bin/idmapfs "$root/sbin/$name"
done
for page in man/*.[158]; do
    install -D -m 644 "$page" "$root/usr/share/man/man${page##*.}/${page#man/}"
done
for policy in policies/*.toml; do
    [ -e "$policy" ] || continue
    install -D -m 644 "$policy" "$root/usr/share/idmapfs/$policy"
done
install -D -m 644 packaging/completions/idmapfs.bash \
    "$root/usr/share/bash-completion/completions/idmapfs"
for text in docs/*.md README.md LICENSE*; do
    [ -e "$text" ] || continue
    install -D -m 644 "$text" "$root/usr/share/doc/idmapfs/${text#docs/}"
done
