#!/usr/bin/env bash
# Builds librocksdb.a once per machine, outside any target directory, and prints the settings that make cargo use it.
#
#   eval "$(raft/rocksdb.sh env)"    build it if it is missing, then print ROCKSDB_LIB_DIR and ROCKSDB_STATIC
#   raft/rocksdb.sh path             where the archive is, or will be
#
# A plain `cargo build` works without this script and takes about 15 minutes for RocksDB alone on two cores. Here the crate's own
# vendored sources are compiled folder by folder as unity builds (one translation unit that includes many files), which spends the
# time on code instead of on reading the same headers 342 times. The defines are those of librocksdb-sys' build.rs for Linux.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

crate_version() { awk -v name="\"$1\"" '$1 == "name" {hit = ($3 == name)} $1 == "version" && hit {gsub(/"/, "", $3); print $3; exit}' Cargo.lock; }
die() { echo "rocksdb.sh: $*" >&2; exit 1; }

version=$(crate_version librocksdb-sys)
[ -n "$version" ] || die "Cargo.lock names no librocksdb-sys"
flags=(-std=c++20 -O2 -DNDEBUG -fPIC -w -include cstdint -DHAVE_ALIGNED_NEW -DHAVE_UINT128_EXTENSION -DLZ4=1 -DOS_LINUX
  -DROCKSDB_PLATFORM_POSIX -DROCKSDB_LIB_IO_POSIX -DROCKSDB_SCHED_GETCPU_PRESENT -DROCKSDB_AUXV_GETAUXVAL_PRESENT
  -DROCKSDB_FALLOCATE_PRESENT -DROCKSDB_RANGESYNC_PRESENT)
[ "$(uname -m)" != x86_64 ] || flags+=(-march=x86-64-v2)
compiler=${CXX:-g++}
stamp=$(printf '%s\n' "$version" "$compiler" "${flags[@]}" | sha256sum | cut -c1-12)
archive_dir=${TRIERARCH_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/trierarch}/rocksdb-$version-$stamp

build() {
  local registry source lz4 work unit=0 count=0 folder='' file
  cargo fetch --quiet
  registry=${CARGO_HOME:-$HOME/.cargo}/registry/src
  source=$(echo "$registry"/*/"librocksdb-sys-$version")
  lz4=$(echo "$registry"/*/"lz4-sys-$(crate_version lz4-sys)"/liblz4)
  [ -d "$source/rocksdb" ] || die "no sources of librocksdb-sys $version below $registry"
  [ -f "$lz4/lz4.h" ] || lz4=$lz4/lib
  [ -f "$lz4/lz4.h" ] || die "no lz4.h below $registry"
  work=$(mktemp -d); trap 'rm -rf "${work:-}"' EXIT
  # 60 files at most in a unit, and never two folders in one: their file-local names stay apart
  while read -r file; do
    [ "$file" != util/build_version.cc ] || continue
    if [ "$(dirname "$file")" != "$folder" ] || [ "$count" -ge 60 ]; then
      folder=$(dirname "$file"); count=0; unit=$((unit + 1))
    fi
    count=$((count + 1))
    echo "#include \"rocksdb/$file\"" >>"$work/unit$unit.cc"
  done < <(awk -F/ '{name = $NF; path = $0; sub("/" name "$", "", path); print path "\t" $0}' "$source/rocksdb_lib_sources.txt" | sort -s -k1,1 | cut -f2)
  echo '#include "build_version.cc"' >"$work/unit0.cc"
  echo "rocksdb.sh: building RocksDB $version once for this machine ($((unit + 1)) units, about 7 minutes on 2 cores)" >&2
  # the largest units first, so that the last one does not run alone
  find "$work" -name '*.cc' -printf '%s %p\n' | sort -rn | cut -d' ' -f2 |
    xargs -P "$(nproc)" -I{} sh -c '
      unit=$1; shift
      "$@" -c "$unit" -o "${unit%.cc}.o" || exit 255
      echo "rocksdb.sh: compiled $(basename "$unit")" >&2' sh {} \
      "$compiler" "${flags[@]}" -I"$source" -I"$source/rocksdb/include" -I"$source/rocksdb" -I"$lz4"
  mkdir -p "$archive_dir"
  ar crs "$work/librocksdb.a" "$work"/*.o
  mv "$work/librocksdb.a" "$archive_dir/librocksdb.a"
}

case ${1:-} in
  env)
    if [ ! -e "$archive_dir/librocksdb.a" ]; then
      mkdir -p "$(dirname "$archive_dir")"
      # one builder at a time; whoever waited finds it done
      exec 9>"$archive_dir.lock"; flock 9
      [ -e "$archive_dir/librocksdb.a" ] || build 9>&-
    fi
    echo "export ROCKSDB_LIB_DIR='$archive_dir' ROCKSDB_STATIC=1" ;;
  path) echo "$archive_dir/librocksdb.a" ;;
  *) sed -n '2,6s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"; exit 2 ;;
esac
