#!/usr/bin/env bash
# Builds a program of Vedette for a machine; installs what it needs but Cargo. The same sources give the same bytes,
# wherever they lie.
#
#   cross/build.sh TARGET [PROFILE] [PACKAGE...]     default: profile edge, package vedette-agent
#
# TARGET   x86_64-unknown-linux-gnu, aarch64-unknown-linux-gnu, armv7-unknown-linux-gnueabihf, or their static kin
#          x86_64-unknown-linux-musl, aarch64-unknown-linux-musl, armv7-unknown-linux-musleabihf
#
# The program lands in target/TARGET/PROFILE/. One line says which compiler was used.
set -euo pipefail
cd "$(dirname "$0")/.."
. cross/toolchain.sh

target=${1:-}
[ -n "$target" ] || fail "usage: cross/build.sh TARGET [PROFILE] [PACKAGE...]; TARGET is one of: $targets"
profile=${2:-edge}
packages=("${@:3}")
[ ${#packages[@]} -gt 0 ] || packages=(vedette-agent)

# No path of this machine may show in the program.
flags=("--remap-path-prefix=$PWD=/vedette" "--remap-path-prefix=${CARGO_HOME:-$HOME/.cargo}=/cargo")
prepare_toolchain "$target" "$([ "$profile" = edge ] && echo panic_abort || echo panic_unwind)"
flags+=("--remap-path-prefix=$("${RUSTC:-rustc}" --print sysroot)=/rust")
if [ "$profile" = edge ]; then
  # In this profile a panic ends the program, so tables for unwinding are of no use: a tenth of it.
  flags+=(-Cforce-unwind-tables=no)
  # Nor does anybody read a backtrace without symbols, and the library's code for sorting can be small.
  [ ${#build_std[@]} = 0 ] || build_std+=(-Zbuild-std-features=optimize_for_size)
fi
export_flags
export CARGO_PROFILE_RELEASE_STRIP=true

folder=$profile
[ "$profile" != dev ] || folder=debug
mkdir -p "target/$target/$folder"
for package in "${packages[@]}"; do
  # One at a time: together they would share the features of their dependencies, and be larger.
  cargo "${cargo_build[@]}" --locked --quiet --config cross/cargo.toml --profile "$profile" --target "$target" \
    "${build_std[@]}" -p "$package"
  built=$CARGO_TARGET_DIR/$target/$folder/$package program=$PWD/target/$target/$folder/$package
  if [ "$built" != "$program" ]; then
    # A program that runs may be replaced, not written to.
    cp --preserve=timestamps "$built" "$program.new"
    mv "$program.new" "$program"
  fi
  echo "${program#"$PWD"/}: $(stat -c %s "$program") bytes, by $way"
done
