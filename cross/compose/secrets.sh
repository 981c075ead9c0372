#!/usr/bin/env bash
# Makes a password for each user of the broker below secrets/, and the file by which the broker knows them
# (PBKDF2, as mosquitto_passwd writes it). What is there stays. Needs openssl.
set -euo pipefail
cd "$(dirname "$0")"

mkdir -p -m 700 secrets
[ ! -e secrets/passwords ] || { echo "secrets/passwords is there already"; exit 0; }
for user in vedette-aggregator agent-ie; do
  password=$(openssl rand -hex 24)
  # The containers' users read them; the folder above keeps everybody else out.
  (umask 022 && printf %s "$password" >"secrets/$user")
  salt=$(openssl rand -hex 12)
  hash=$(openssl kdf -keylen 64 -kdfopt digest:SHA512 -kdfopt "pass:$password" -kdfopt "hexsalt:$salt" -kdfopt iter:101 \
    -binary PBKDF2 | openssl base64 -A)
  printf '%s:$7$101$%s$%s\n' "$user" "$(printf %b "$(sed 's/../\\x&/g' <<<"$salt")" | openssl base64 -A)" "$hash"
done >secrets/passwords.new
mv secrets/passwords.new secrets/passwords
chmod 644 secrets/passwords
