#!/bin/bash
# Runs within a Debian that was booted for it (cross/test_deb.sh): both packages as systemd runs them, sandbox included.
# What it prints ends with "all units passed", or names what is not so.
set -u

expect() {
  local what=$1 said
  shift
  said=$("$@" 2>&1) || { printf 'not so: %s\n%s\n' "$what" "$said"; exit 1; }
  echo "  $what"
}
# Looks for up to two minutes.
soon() {
  local what=$1
  shift
  for _ in $(seq 600); do
    "$@" >/dev/null 2>&1 && { echo "  $what"; return; }
    sleep 0.2
  done
  echo "not so within two minutes: $what"
  journalctl --no-pager -n 60
  exit 1
}
shows() { [ "$(systemctl show --value -p "$2" "$1")" = "$3" ]; }
serves() { curl -fs "http://127.0.0.1:$1$2"; }
connected() { serves 8462 /metrics | grep -q '^vedette_agent_connected 1'; }
said() { journalctl --no-pager -u "$1" | grep -q "$2"; }
restarted() { [ "$(systemctl show --value -p NRestarts vedette-agent)" -ge 1 ]; }
readable_by_service_only() {
  local file=/run/credentials/vedette-agent.service/secret_broker main
  main=$(systemctl show --value -p MainPID vedette-agent)
  [ "$(nsenter -t "$main" -m -- cat $file)" = secret ] && ! runuser -u nobody -- cat $file
}

# A call that the sandbox refuses is an error when installed, which may go unnoticed. Here it ends the program.
for unit in vedette-aggregator vedette-agent; do
  mkdir -p /etc/systemd/system/$unit.service.d
  printf '[Service]\nSystemCallErrorNumber=kill\n' >/etc/systemd/system/$unit.service.d/kill.conf
done

expect "both packages install" dpkg -i /root/vedette-aggregator.deb /root/vedette-agent.deb
for unit in vedette-aggregator vedette-agent; do
  soon "$unit said that it is ready" shows $unit ActiveState active
  expect "$unit is of the type notify, with a watchdog of a minute" shows $unit WatchdogUSec 1min
  expect "$unit is enabled" systemctl is-enabled $unit
done
soon "the console answers" serves 8460 /-/ready
token=$(runuser -u vedette-aggregator -- vedette-aggregator token create --config /etc/vedette/aggregator.toml --region uk)
expect "the agent enrols as the config says" runuser -u vedette-agent -- vedette-agent enroll \
  --config /etc/vedette/agent.toml --aggregator 127.0.0.1:8461 --token "$token"
soon "the service has that certificate" connected

expect "a good config is taken by a reload" systemctl reload vedette-agent
soon "and the agent says so" said vedette-agent "read the config again"
cp /etc/vedette/agent.toml /root/agent.toml
echo nonsense >>/etc/vedette/agent.toml
expect "a bad one is refused" bash -c '! systemctl reload vedette-agent'
expect "and the agent goes on" shows vedette-agent ActiveState active
cp /root/agent.toml /etc/vedette/agent.toml

echo -n secret >/etc/vedette/vedette-agent.credentials/broker
expect "it starts again" systemctl restart vedette-agent
expect "a credential is for the service only" readable_by_service_only
soon "it is connected again" connected

for unit in vedette-aggregator vedette-agent; do
  # The number by which systemd shows "kill".
  expect "$unit would be ended by its sandbox" shows $unit SystemCallErrorNumber 2147483646
done
expect "none was ever ended by its sandbox" bash -c '! journalctl --no-pager | grep -E "SIGSYS|status=31|code=killed"'
kill -STOP "$(systemctl show --value -p MainPID vedette-agent)"
soon "one that hangs is started again by the watchdog" restarted
soon "and is connected" connected

expect "both packages are purged" dpkg -P vedette-agent vedette-aggregator
rm -r /etc/systemd/system/vedette-a*.service.d
expect "no unit is left" bash -c '! systemctl cat vedette-agent'
echo "all units passed"
