#!/usr/bin/env python3
"""Prints what a program is made of, as CycloneDX 1.5 in JSON: each crate with version, licence and checksum.

    cross/sbom.py PACKAGE TARGET

Only what is linked into the program counts: no build scripts, no tests; the standard library is one entry, and so is the C
library of a static program. The same sources and compiler give the same bytes.
"""
import json
import os
import subprocess
import sys
import tomllib


def cargo(*arguments):
    return subprocess.run(["cargo", *arguments], check=True, capture_output=True, text=True).stdout


def linked(package, target):
    """Names and versions of the crates that end up in the program."""
    lines = cargo("tree", "--locked", "-p", package, "--target", target, "-e", "normal,no-proc-macro",
                  "--prefix", "none", "--format", "{p}").splitlines()
    return {(words[0], words[1].removeprefix("v")) for words in (line.split() for line in lines) if words}


def component(package, checksums):
    name, version = package["name"], package["version"]
    found = {
        "type": "library",
        "name": name,
        "version": version,
        "purl": f"pkg:cargo/{name}@{version}",
        "bom-ref": f"{name}@{version}",
    }
    if package["license"]:
        found["licenses"] = [{"expression": package["license"].replace("/", " OR ")}]
    if checksum := checksums.get((name, version)):
        found["hashes"] = [{"alg": "SHA-256", "content": checksum}]
    return found


def standard_library():
    """The compiler's own library, under the compiler's version."""
    version = subprocess.run([os.environ.get("RUSTC", "rustc"), "--version"], check=True, capture_output=True,
                             text=True).stdout.split()[1]
    return {
        "type": "library",
        "name": "rust-std",
        "version": version,
        "bom-ref": f"rust-std@{version}",
        "licenses": [{"expression": "MIT OR Apache-2.0"}],
    }


def c_library():
    """What a static program is linked with, under the version of the linker that brings it along."""
    with open("cross/toolchain.sh") as file:
        zig = next(line.strip().split("=")[1] for line in file if line.startswith("zig_version="))
    return {
        "type": "library",
        "name": "musl",
        "version": f"zig-{zig}",
        "bom-ref": f"musl@zig-{zig}",
        "licenses": [{"expression": "MIT"}],
    }


def main(program, target):
    with open("Cargo.lock", "rb") as file:
        locked = tomllib.load(file)["package"]
    checksums = {(each["name"], each["version"]): each.get("checksum") for each in locked}
    wanted = linked(program, target)
    packages = json.loads(cargo("metadata", "--locked", "--format-version", "1"))["packages"]
    packages = [each for each in packages if (each["name"], each["version"]) in wanted]
    packages.sort(key=lambda each: (each["name"], each["version"]))
    components = [component(each, checksums) for each in packages]
    itself = next(each for each in components if each["name"] == program)
    components.remove(itself)
    bill = {
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": {"component": {**itself, "type": "application"}},
        "components": [*components, standard_library(), *([c_library()] if "musl" in target else [])],
    }
    json.dump(bill, sys.stdout, indent=1)
    print()


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(*sys.argv[1:])
