#!/usr/bin/env bash
# Makes Debian packages of both programs with cross/build.sh, the agent small (profile edge) and the aggregator fast
# (release); the same programs give the same bytes.
#
#   cross/deb.sh TARGET [PACKAGE...]      target: a gnu one of cross/build.sh; default: both packages
#
# The packages land in target/deb/, each with a list of the crates in it (CycloneDX), and the checksums of all. Where
# lintian is installed, its errors are this script's.
# VEDETTE_VERSION    instead of the version in Cargo.toml
# SOURCE_DATE_EPOCH  the time that every file bears (default: that of the last commit)
set -euo pipefail
cd "$(dirname "$0")/.."
. cross/toolchain.sh

target=${1:-}
case $target in
  x86_64-*-gnu) architecture=amd64 ;;
  aarch64-*-gnu) architecture=arm64 ;;
  armv7-*-gnueabihf) architecture=armhf ;;
  *) fail "usage: cross/deb.sh TARGET [PACKAGE...]; a gnu target, since a package brings no C library" ;;
esac
packages=("${@:2}")
[ ${#packages[@]} -gt 0 ] || packages=(vedette-agent vedette-aggregator)
version=${VEDETTE_VERSION:-$(sed -n '/^\[workspace.package\]/,/^$/s/^version = "\(.*\)"/\1/p' Cargo.toml)}
SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct)}
export SOURCE_DATE_EPOCH
umask 022

profile_of() {
  case $1 in
    vedette-agent) echo edge ;;
    *) echo release ;;
  esac
}

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
  printf '%s (%s) unstable; urgency=medium\n\n  * See the commits.\n\n -- %s  %s\n' "$package" "$version" \
    "$maintainer" "$(date -u -R -d "@$SOURCE_DATE_EPOCH")" | gzip -9n >"$documents/changelog.gz"
  install -d "$root/DEBIAN"
  for script in postinst prerm postrm; do
    sed "s/PROGRAM/$package/g" "cross/deb/$script" >"$root/DEBIAN/$script"
    chmod 755 "$root/DEBIAN/$script"
  done
  echo "/etc/vedette/$name.toml" >"$root/DEBIAN/conffiles"
  (cd "$root" && find usr lib etc -type f ! -path 'etc/*' -print0 | sort -z | xargs -0 md5sum >DEBIAN/md5sums)
  cat >"$root/DEBIAN/control" <<END
Package: $package
Version: $version
Architecture: $architecture
Maintainer: $maintainer
Installed-Size: $(du -k -s --apparent-size "$root" | cut -f1)
Depends: libc6 (>= 2.36), libgcc-s1, adduser
Section: admin
Priority: optional
Description: $(description "$package")
END
}

maintainer="Vedette <packages@vedette.example>"
install_packages dpkg-dev python3
mkdir -p target/deb
for package in "${packages[@]}"; do
  cross/build.sh "$target" "$(profile_of "$package")" "$package"
  root=target/deb/$architecture/$package deb=target/deb/${package}_${version}_$architecture.deb
  rm -rf "$root" && mkdir -p "$root"
  lay_out "$package" "$root"
  find "$root" -exec touch --no-dereference --date="@$SOURCE_DATE_EPOCH" {} +
  dpkg-deb --root-owner-group -Zxz --build "$root" "$deb" >/dev/null
  rm -rf "$root"
  ! command -v lintian >/dev/null || lintian --allow-root --fail-on error --profile debian "$deb"
  /usr/bin/python3 cross/sbom.py "$package" "$target" >"${deb%.deb}.cdx.json"
  echo "$deb: $(stat -c %s "$deb") bytes"
done
(cd target/deb && sha256sum -- *.deb *.cdx.json >SHA256SUMS)
