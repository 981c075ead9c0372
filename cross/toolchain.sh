# Sourced by the scripts beside it: what a target needs, and which compiler builds it. Runs nothing by itself.
#
# Two ways: `rustup`, where the target's standard library is installed for the toolchain in use, and `debian`, Debian's
# own rustc with the sources of its standard library, for machines that reach Debian's packages and crates.io only.

# A command that fails ends a substitution too.
shopt -s inherit_errexit

targets="x86_64-unknown-linux-gnu aarch64-unknown-linux-gnu armv7-unknown-linux-gnueabihf \
x86_64-unknown-linux-musl aarch64-unknown-linux-musl armv7-unknown-linux-musleabihf"
boards="thumbv7em-none-eabihf thumbv6m-none-eabi"
semihosting=(-nographic -semihosting-config "enable=on,target=native" -kernel)
zig_version=0.17.1

# The target of the static programs for one of Debian's architectures, which are those of images too.
static_target() {
  case $1 in
    amd64) echo x86_64-unknown-linux-musl ;;
    arm64) echo aarch64-unknown-linux-musl ;;
    armhf) echo armv7-unknown-linux-musleabihf ;;
    *) return 1 ;;
  esac
}

# The profile that a program is packaged in: the agent small, the aggregator fast.
profile_of() {
  case $1 in
    vedette-agent) echo edge ;;
    *) echo release ;;
  esac
}

program_version() { sed -n '/^\[workspace.package\]/,/^$/s/^version = "\(.*\)"/\1/p' Cargo.toml; }

fail() { printf '%s: %s\n' "${0##*/}" "$*" >&2; exit 1; }

# Installs what is missing of the Debian packages named.
install_packages() {
  local missing=() package
  for package in "$@"; do
    dpkg-query -W -f='${Status}' "$package" 2>/dev/null | grep -q 'install ok installed' || missing+=("$package")
  done
  [ ${#missing[@]} -gt 0 ] || return 0
  local as_root=()
  [ "$(id -u)" = 0 ] || as_root=(sudo)
  "${as_root[@]}" apt-get update -qq >&2 || echo "apt-get update failed; trying with the lists that are there" >&2
  "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >&2 ||
    fail "could not install: ${missing[*]}"
}

# The C compiler and C library that a target links with; a board has no library, and any linker for ARM will do.
compiler_packages() {
  case $1 in
    x86_64-*) echo gcc libc6-dev ;;
    aarch64-*) echo gcc-aarch64-linux-gnu libc6-dev-arm64-cross ;;
    armv7-*) echo gcc-arm-linux-gnueabihf libc6-dev-armhf-cross ;;
    thumb*) echo binutils-arm-linux-gnueabihf ;;
    *) fail "unknown target $1; one of: $targets $boards" ;;
  esac
}

has_target() {
  [ -d "$(rustc --print sysroot)/lib/rustlib/$1/lib" ]
}

# Prints the compiler that builds for a target, as the list of a program's parts has to name it.
compiler_of() {
  if has_target "$1"; then echo rustc; else echo /usr/bin/rustc; fi
}

# cargo-zigbuild and the zig that it calls, in a Python environment of their own.
prepare_zig() {
  local folder
  folder=$PWD/target/tools/zig-$(sha256sum cross/zig.txt | cut -c1-12)
  if [ ! -e "$folder/.complete" ]; then
    install_packages python3-venv
    rm -rf "$folder"
    /usr/bin/python3 -m venv "$folder"
    "$folder/bin/pip" install --quiet --disable-pip-version-check --require-hashes -r cross/zig.txt
    touch "$folder/.complete"
  fi
  export PATH="$folder/bin:$PATH"
}

# Hands `flags` to Cargo; a path in them may hold a blank.
export_flags() {
  CARGO_ENCODED_RUSTFLAGS=$(printf '%s\x1f' "${flags[@]}")
  export CARGO_ENCODED_RUSTFLAGS=${CARGO_ENCODED_RUSTFLAGS%$'\x1f'}
}

# Chooses the compiler for a target and exports what Cargo needs for it; $2 names what is built of the standard library
# besides `std` where there is none. Sets `way`, `build_std` (the arguments for that), `cargo_build` and `cargo_test`,
# and adds to the list `flags`, the compiler's.
prepare_toolchain() {
  local target=$1 packages
  packages=$(compiler_packages "$target")
  build_std=() cargo_build=(build) cargo_test=(test)
  export CARGO_TARGET_DIR=$PWD/target
  if has_target "$target"; then
    way="rustup's $(rustc --version | cut -d' ' -f1-2)"
  else
    install_packages rustc-web rust-web-src
    # Fingerprints of two compilers do not mix in one folder.
    export RUSTC=/usr/bin/rustc RUSTC_BOOTSTRAP=1 CARGO_TARGET_DIR=$PWD/target/debian
    way="Debian's $($RUSTC --version | cut -d' ' -f1-2) and its sources of std"
    build_std=("-Zbuild-std=std,$2")
  fi
  # shellcheck disable=SC2086 # a list of words
  install_packages $packages
  case $target in
    *-musl*)
      prepare_zig
      cargo_build=(zigbuild) cargo_test=() way+=", linked by zig $zig_version"
      flags+=(-Clink-self-contained=no)
      ;;
    *-none-*)
      [ ${#build_std[@]} = 0 ] || build_std=(-Zbuild-std=core)
      flags+=(-Clinker-flavor=ld -Clinker=arm-linux-gnueabihf-ld)
      ;;
  esac
}
