#!/usr/bin/env bash
# Builds both programs static with cross/build.sh and writes their OCI images without a daemon: no shell, no libraries, a
# user that is not root, a root file system that may be read-only. The same programs give the same bytes.
#
#   cross/image.sh [ARCHITECTURE...]      of amd64, arm64 and armhf; default: amd64 arm64
#
# Each image is a layout (a folder) and the same as one file, target/oci/PROGRAM and target/oci/PROGRAM.tar, with a list of
# its crates (CycloneDX) for each architecture and the checksums of all.
# VEDETTE_VERSION    instead of the version in Cargo.toml
# SOURCE_DATE_EPOCH  the time that every file bears (default: that of the last commit)
set -euo pipefail
cd "$(dirname "$0")/.."
. cross/toolchain.sh

architectures=("$@")
[ ${#architectures[@]} -gt 0 ] || architectures=(amd64 arm64)
version=${VEDETTE_VERSION:-$(program_version)}
SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct)}
export SOURCE_DATE_EPOCH
install_packages python3
mkdir -p target/oci
for program in vedette-agent vedette-aggregator; do
  binaries=()
  for architecture in "${architectures[@]}"; do
    target=$(static_target "$architecture") || fail "unknown architecture $architecture: amd64, arm64 or armhf"
    profile=$(profile_of "$program")
    cross/build.sh "$target" "$profile" "$program"
    name=$architecture
    # As images call it, with the variant of the processor.
    [ "$architecture" != armhf ] || name=arm/v7
    licences=target/oci/${program}_$architecture.licences.txt
    binaries+=("$name=target/$target/$profile/$program=$licences")
    RUSTC=$(compiler_of "$target") \
      /usr/bin/python3 cross/sbom.py "$program" "$target" >"target/oci/${program}_$architecture.cdx.json"
    /usr/bin/python3 cross/licences.py "$program" "$target" >"$licences"
  done
  /usr/bin/python3 cross/image.py "$program" "$version" "target/oci/$program" "${binaries[@]}"
  echo "target/oci/$program.tar: $(stat -c %s "target/oci/$program.tar") bytes, ${architectures[*]}"
done
(cd target/oci && sha256sum -- *.tar *.cdx.json *.licences.txt >SHA256SUMS)
