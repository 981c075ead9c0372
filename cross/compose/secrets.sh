#!/usr/bin/env bash
# Makes a password for each user of the broker below secrets/, and the file by which the broker knows them
# (PBKDF2, as mosquitto_passwd writes it). What is there stays. Needs openssl and python3.
set -euo pipefail
cd "$(dirname "$0")"

mkdir -p -m 700 secrets
[ ! -e secrets/passwords ] || { echo "secrets/passwords is there already"; exit 0; }
for user in vedette-aggregator agent-ie; do
  # The containers' users read them; the folder above keeps everybody else out.
  (umask 022 && openssl rand -hex 24 | tr -d '\n' >"secrets/$user")
  # From a file into a hash: on a command line every user of this machine could read it.
  python3 - "$user" <<'END'
import base64, hashlib, os, pathlib, sys

user, salt, rounds = sys.argv[1], os.urandom(12), 101
key = hashlib.pbkdf2_hmac("sha512", pathlib.Path("secrets", user).read_bytes(), salt, rounds, 64)
salt, key = (base64.b64encode(each).decode() for each in (salt, key))
print(f"{user}:$7${rounds}${salt}${key}")
END
done >secrets/passwords.new
mv secrets/passwords.new secrets/passwords
chmod 644 secrets/passwords
