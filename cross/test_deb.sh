#!/usr/bin/env bash
# Installs, runs, upgrades, removes and purges the Debian packages in a folder with a Debian of its own; stops at the first
# failure. Needs root.
#
#   cross/test_deb.sh [PACKAGE...]          default: both packages, for this machine
#
# VEDETTE_MIRROR  where debootstrap finds Debian (default http://deb.debian.org/debian)
set -euo pipefail
cd "$(dirname "$0")/.."
. cross/toolchain.sh

target=$(rustc -vV | sed -n 's/^host: //p')
packages=("$@")
[ ${#packages[@]} -gt 0 ] || packages=(vedette-agent vedette-aggregator)
root=$PWD/target/tools/debian-root
[ "$(id -u)" = 0 ] || fail "needs root, to make a Debian in a folder"

install_packages debootstrap lintian
if [ ! -e "$root/.complete" ]; then
  rm -rf "$root"
  debootstrap --variant=minbase --include=adduser,systemd,curl bookworm "$root" \
    "${VEDETTE_MIRROR:-http://deb.debian.org/debian}" >"$root.log"
  touch "$root/.complete"
fi

inside() { chroot "$root" "$@"; }
# `expect WHAT COMMAND...`: the command must succeed; what it prints is shown if it does not.
expect() {
  local what=$1 said
  shift
  said=$("$@" 2>&1) || fail "not so: $what"$'\n'"$said"
  echo "  $what"
}
absent() { ! inside test -e "$1"; }
is_mode() { [ "$(inside stat -c '%U %a' "$1")" = "$2" ]; }
install_version() {
  local deb
  VEDETTE_VERSION=$2 cross/deb.sh "$target" "$1" >/dev/null
  deb=$1_$2_$(dpkg --print-architecture).deb
  cp "target/deb/$deb" "$root/tmp/$deb"
  expect "version $2 installs" inside dpkg -i "/tmp/$deb"
}

# Runs the program as its unit does, as its own user, until it says that it is healthy.
runs() {
  local package=$1 name=${1#vedette-} port=$2 variable log process healthy=
  variable=VEDETTE_$(tr a-z A-Z <<<"$name")_STATE
  log=$root/tmp/$package.log
  inside install -d -m 700 -o "$package" -g "$package" "/var/lib/$package"
  (exec chroot "$root" setpriv --reuid "$package" --regid "$package" --init-groups \
    env "$variable=/var/lib/$package" "$package" run --config "/etc/vedette/$name.toml") >"$log" 2>&1 &
  process=$!
  for _ in $(seq 100); do
    inside curl -fs "http://127.0.0.1:$port/-/healthy" && healthy=yes && break
    sleep 0.1
  done
  [ -n "$healthy" ] || cat "$log"
  kill -TERM "$process" && wait "$process" && [ -n "$healthy" ]
}

for package in "${packages[@]}"; do
  name=${package#vedette-} port=8462
  [ "$name" = agent ] || port=8460
  echo "$package"
  inside dpkg -P "$package" >/dev/null 2>&1 || true
  install_version "$package" 0.0.1
  expect "has its own user" inside getent passwd "$package"
  expect "keeps secrets from everybody else" is_mode "/etc/vedette/$package.credentials" "root 700"
  expect "its config is right" inside runuser -u "$package" -- "$package" check --config "/etc/vedette/$name.toml"
  expect "its unit is right" inside systemd-analyze verify "/lib/systemd/system/$package.service"
  expect "its unit is hardened" inside systemd-analyze security --offline=yes --threshold=25 \
    "/lib/systemd/system/$package.service"
  expect "runs and stops" runs "$package" "$port"
  echo "# kept" >>"$root/etc/vedette/$name.toml"
  install_version "$package" 0.0.2
  expect "keeps its config through an upgrade" grep -q '^# kept$' "$root/etc/vedette/$name.toml"
  expect "keeps its state through an upgrade" is_mode "/var/lib/$package" "$package 700"
  expect "is removed" inside dpkg -r "$package"
  expect "is gone when removed" absent "/usr/bin/$package"
  expect "keeps its config when removed" grep -q '^# kept$' "$root/etc/vedette/$name.toml"
  expect "is purged" inside dpkg -P "$package"
  expect "leaves no state when purged" absent "/var/lib/$package"
  expect "leaves no config when purged" absent "/etc/vedette/$name.toml"
  expect "leaves no secrets when purged" absent "/etc/vedette/$package.credentials"
  ! inside getent passwd "$package" >/dev/null || fail "not so: leaves no user when purged"
done
rm -f target/deb/*_0.0.[12]_*
