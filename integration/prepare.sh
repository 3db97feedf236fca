# Sourced by ./trierarch and ./test: installs what a build, a node or the tests need from Debian's packages, if it is missing.
# shellcheck shell=bash

say() { echo "trierarch: $*" >&2; }

# usage FILE: the comment at the beginning of a script
usage() { sed -n '2,/^set/{/^#/s/^# \?//p}' "$1"; }

# install_missing COMMAND:PACKAGE...: one apt-get for all that is not there
install_missing() {
  local missing=() pair
  for pair in "$@"; do
    command -v "${pair%%:*}" >/dev/null || [ -x "/usr/sbin/${pair%%:*}" ] || [ -e "${pair%%:*}" ] || missing+=("${pair#*:}")
  done
  [ ${#missing[@]} -gt 0 ] || return 0
  [ "$(id -u)" = 0 ] || { say "install these first (or run as root): ${missing[*]}"; return 1; }
  command -v apt-get >/dev/null || { say "install these first: ${missing[*]}"; return 1; }
  say "installing ${missing[*]}"
  apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null 2>&1 ||
    { apt-get update -qq && apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null; }
}

# Rust by rustup: Debian's package where there is one (13 and later), else the Rust project's own installer, checked against its published sum.
install_rust() {
  if ! install_missing rustup:rustup 2>/dev/null; then
    install_missing curl:curl /etc/ssl/certs/ca-certificates.crt:ca-certificates || return
    local from work
    from=${RUSTUP_UPDATE_ROOT:-https://static.rust-lang.org/rustup}/dist/$(uname -m)-unknown-linux-gnu
    work=$(mktemp -d)
    say "installing rustup from $from"
    (cd "$work" && curl -fsSL --retry 3 -o rustup-init "$from/rustup-init" && curl -fsSL --retry 3 "$from/rustup-init.sha256" |
      awk '{print $1 "  rustup-init"}' | sha256sum --check --quiet && chmod +x rustup-init &&
      ./rustup-init -y --quiet --no-modify-path --default-toolchain none >/dev/null)
    local code=$?
    rm -rf "$work"
    [ $code = 0 ] || return $code
    PATH=$HOME/.cargo/bin:$PATH
  fi
  say 'installing the Rust toolchain'
  rustup default stable >/dev/null
}

# What compiling needs: a C++ compiler and libclang for RocksDB, Rust for the rest.
prepare_build() {
  [ -d "$HOME/.cargo/bin" ] && PATH=$HOME/.cargo/bin:$PATH
  # cargo fetches crates over TLS
  install_missing g++:g++ make:make /etc/ssl/certs/ca-certificates.crt:ca-certificates
  # bindgen loads libclang itself; libclang-cpp, which other packages bring, will not do
  if ! compgen -G '/usr/lib/llvm-*/lib/libclang[.-][s0-9]*' >/dev/null && ! compgen -G '/usr/lib/*/libclang[.-][s0-9]*' >/dev/null; then
    install_missing /nonexistent/clang:clang /nonexistent/libclang:libclang-dev
  fi
  command -v cargo >/dev/null || install_rust ||
    { say "Rust is missing and could not be installed: see https://rustup.rs, then run this again"; return 1; }
  eval "$(raft/rocksdb.sh env)"
}

# What a node needs on the machine.
prepare_node() {
  # without any authority known to the machine the registry's client does not start, not even for the cluster's own
  install_missing nft:nftables /etc/ssl/certs/ca-certificates.crt:ca-certificates
}

# What the tests use beside that.
prepare_tests() {
  prepare_node
  # tests copy busybox into root file systems of their own, so one that loads libraries will not do
  local busybox=/bin/busybox
  ! ldd "$busybox" >/dev/null 2>&1 || busybox=/nonexistent/busybox
  # Debian's kubectl is old (1.20); one that is there already is left alone, and both will do
  install_missing nft:nftables ip:iproute2 skopeo:skopeo "$busybox:busybox-static" conntrack:conntrack \
    mmdebstrap:mmdebstrap mkfs.ext4:e2fsprogs losetup:mount setpriv:util-linux kubectl:kubernetes-client
}
