#!/usr/bin/env bash
# Makes Debian packages of both programs with cross/build.sh, the agent small (profile edge) and the aggregator fast
# (release); the same programs give the same bytes. The programs are static, the same as in the images (cross/image.sh), so
# that one package serves every release of Debian and its kin.
#
#   cross/deb.sh ARCHITECTURE [PACKAGE...]      amd64, arm64 or armhf; default: both packages
#
# The packages land in target/deb/VERSION, with the checksums of all that lie there. Each holds a list of the crates in it
# (CycloneDX), which lies beside it too, and their licences. Where lintian is installed, its errors are this script's.
# VEDETTE_VERSION    instead of the version in Cargo.toml
# SOURCE_DATE_EPOCH  the time that every file bears (default: that of the last commit)
set -euo pipefail
cd "$(dirname "$0")/.."
. cross/toolchain.sh

architecture=${1:-}
target=$(static_target "$architecture") || fail "usage: cross/deb.sh amd64|arm64|armhf [PACKAGE...]"
packages=("${@:2}")
[ ${#packages[@]} -gt 0 ] || packages=(vedette-agent vedette-aggregator)
version=${VEDETTE_VERSION:-$(program_version)}
SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct)}
export SOURCE_DATE_EPOCH
umask 022

description() {
  case $1 in
    vedette-agent) echo "scores telemetry where it is produced
 Scores every time series of a host in bounded memory and sends compact
 summaries to a Vedette aggregator over QUIC or MQTT." ;;
    vedette-aggregator) echo "pages people for malfunctions, not for events
 Compares the deviations that Vedette agents report with their peers and with
 the calendar, and notifies people only of what is left." ;;
  esac
}

# Lays out the files of a package below a folder.
lay_out() {
  local package=$1 root=$2 name=${1#vedette-} script
  local documents=$root/usr/share/doc/$package
  install -D -m 755 "target/$target/$(profile_of "$package")/$package" "$root/usr/bin/$package"
  install -D -m 644 "cross/deb/$package.service" "$root/lib/systemd/system/$package.service"
  install -D -m 644 "cross/deb/$name.toml" "$root/etc/vedette/$name.toml"
  install -d -m 700 "$root/etc/vedette/$package.credentials"
  install -D -m 644 cross/deb/copyright "$documents/copyright"
  install -m 644 "$bill" "$documents/crates.cdx.json"
  /usr/bin/python3 cross/licences.py "$package" "$target" | gzip -9n >"$documents/licences.gz"
  printf '%s (%s) unstable; urgency=medium\n\n  * See the commits.\n\n -- %s  %s\n' "$package" "$version" \
    "$maintainer" "$(date -u -R -d "@$SOURCE_DATE_EPOCH")" | gzip -9n >"$documents/changelog.gz"
  install -d "$root/usr/share/lintian/overrides" "$root/DEBIAN"
  printf '# One program for every release of Debian, the same as in the container image.\n%s: %s\n' "$package" \
    "statically-linked-binary [usr/bin/$package]" >"$root/usr/share/lintian/overrides/$package"
  for script in postinst prerm postrm; do
    sed "s/PROGRAM/$package/g" "cross/deb/$script" >"$root/DEBIAN/$script"
    chmod 755 "$root/DEBIAN/$script"
  done
  echo "/etc/vedette/$name.toml" >"$root/DEBIAN/conffiles"
  (cd "$root" && find usr lib -type f -print0 | sort -z | xargs -0 md5sum >DEBIAN/md5sums)
  cat >"$root/DEBIAN/control" <<END
Package: $package
Version: $version
Architecture: $architecture
Maintainer: $maintainer
Installed-Size: $(find "$root" -type f ! -path '*/DEBIAN/*' -printf '%s\n' | awk '{ kib += int(($1 + 1023) / 1024) } END { print kib }')
Depends: adduser
Section: admin
Priority: optional
Description: $(description "$package")
END
}

maintainer="Vedette <packages@vedette.example>"
install_packages dpkg-dev python3
folder=target/deb/$version
mkdir -p "$folder"
for package in "${packages[@]}"; do
  cross/build.sh "$target" "$(profile_of "$package")" "$package"
  root=$folder/$architecture/$package deb=$folder/${package}_${version}_$architecture.deb
  bill=${deb%.deb}.cdx.json
  RUSTC=$(compiler_of "$target") /usr/bin/python3 cross/sbom.py "$package" "$target" >"$bill"
  rm -rf "$root" && mkdir -p "$root"
  lay_out "$package" "$root"
  find "$root" -exec touch --no-dereference --date="@$SOURCE_DATE_EPOCH" {} +
  dpkg-deb --root-owner-group -Zxz --build "$root" "$deb" >/dev/null
  rm -rf "$folder/$architecture"
  ! command -v lintian >/dev/null || lintian --allow-root --fail-on error --profile debian "$deb"
  echo "$deb: $(stat -c %s "$deb") bytes"
done
(cd "$folder" && sha256sum -- *.deb *.cdx.json >SHA256SUMS)
