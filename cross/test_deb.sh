#!/usr/bin/env bash
# Installs, runs, upgrades, removes and purges the Debian packages in a folder with a Debian of its own, and boots that for
# what only systemd can show; stops at the first failure. Needs root.
#
#   cross/test_deb.sh [ARCHITECTURE...]     of amd64, arm64 and armhf; default: this machine's
#
# Packages of another architecture are installed beside it, as Debian allows, and their programs run under QEMU.
# VEDETTE_MIRROR  where debootstrap finds Debian (default http://deb.debian.org/debian)
set -euo pipefail
cd "$(dirname "$0")/.."
. cross/toolchain.sh

own=$(dpkg --print-architecture)
architectures=("$@")
[ ${#architectures[@]} -gt 0 ] || architectures=("$own")
root=$PWD/target/tools/debian-root
[ "$(id -u)" = 0 ] || fail "needs root, to make a Debian in a folder"

install_packages debootstrap lintian systemd-container
# Lets the kernel start programs of another architecture, wherever they lie.
emulate() {
  local emulator
  case $1 in
    "$own") return ;;
    arm64) emulator=qemu-aarch64 ;;
    armhf) emulator=qemu-arm ;;
    *) fail "no emulator is known for $1" ;;
  esac
  install_packages qemu-user-static
  [ -e /proc/sys/fs/binfmt_misc/register ] || mount -t binfmt_misc none /proc/sys/fs/binfmt_misc
  [ -e "/proc/sys/fs/binfmt_misc/$emulator" ] || cat "/usr/lib/binfmt.d/$emulator.conf" >/proc/sys/fs/binfmt_misc/register
}

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
# Lintian's errors, too, are told by what makes the package.
make_package() {
  local said
  said=$(VEDETTE_VERSION=$2 cross/deb.sh "$3" "$1") || fail "$1 $2 for $3 was not made"$'\n'"$said"
}
install_version() {
  local deb
  make_package "$1" "$2" "$architecture"
  deb=$1_$2_$architecture.deb
  cp "target/deb/$2/$deb" "$root/tmp/$deb"
  expect "version $2 installs" inside dpkg -i "/tmp/$deb"
}

# Runs the program as its own user until it says that it is healthy.
runs() {
  local package=$1 name=${1#vedette-} port=$2 log process healthy=
  log=$root/tmp/$package.log
  ! inside curl -fs "http://127.0.0.1:$port/-/healthy" || { echo "port $port is taken already"; return 1; }
  inside install -d -m 700 -o "$package" -g "$package" "/var/lib/$package"
  (exec chroot "$root" setpriv --reuid "$package" --regid "$package" --init-groups \
    "$package" run --config "/etc/vedette/$name.toml") >"$log" 2>&1 &
  process=$!
  for _ in $(seq 300); do
    inside curl -fs "http://127.0.0.1:$port/-/healthy" && healthy=yes && break
    sleep 0.1
  done
  [ -n "$healthy" ] || cat "$log"
  kill -TERM "$process"
  # One that does not stop is killed, and has failed.
  for _ in $(seq 300); do
    kill -0 "$process" 2>/dev/null || break
    sleep 0.1
  done
  kill -KILL "$process" 2>/dev/null
  wait "$process" && [ -n "$healthy" ]
}

test_package() {
  local package=$1 name=${1#vedette-} port=8462
  [ "$name" = agent ] || port=8460
  echo "$package $architecture"
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
}

# Boots a copy of that Debian, with a systemd of its own, for what only a service can show.
test_units() {
  local booted=$root-booted package log=$root-booted.log
  rm -rf "$booted" && cp -a --reflink=auto "$root" "$booted"
  for package in vedette-agent vedette-aggregator; do
    make_package "$package" 0.0.1 "$own"
    cp "target/deb/0.0.1/${package}_0.0.1_$own.deb" "$booted/root/$package.deb"
  done
  install -m 755 cross/deb/units.sh "$booted/root/units.sh"
  printf '[Service]\nType=oneshot\nStandardOutput=append:/root/said\nStandardError=inherit\nExecStart=/root/units.sh\n%s\n' \
    'ExecStopPost=systemctl --no-block --force poweroff' >"$booted/etc/systemd/system/vedette-test.service"
  mkdir -p "$booted/etc/systemd/system/multi-user.target.wants"
  ln -sf ../vedette-test.service "$booted/etc/systemd/system/multi-user.target.wants/"
  timeout 900 systemd-nspawn -D "$booted" --boot --register=no --keep-unit --private-network </dev/null >"$log" 2>&1 || true
  cat "$booted/root/said"
  grep -q '^all units passed$' "$booted/root/said" || fail "not as systemd runs it; the boot is in $log"
  rm -rf "$booted"
}

for architecture in "${architectures[@]}"; do
  emulate "$architecture"
  inside dpkg --add-architecture "$architecture"
  for package in vedette-agent vedette-aggregator; do test_package "$package"; done
done
echo "under systemd"
test_units
rm -rf target/deb/0.0.1 target/deb/0.0.2
