#!/usr/bin/env python3
"""Prints the licences and notices of what is in a program, as their authors ask of everybody who hands it on.

    cross/licences.py PACKAGE TARGET

A text that several crates share is printed once, below their names. The same sources give the same bytes.
"""
import json
import pathlib
import sys

from sbom import cargo, linked

# What the compiler and the linker bring along.
LIBRARIES = sorted(pathlib.Path(__file__).parent.joinpath("licences").glob("*.txt"))
NAMES = ("LICENSE", "LICENCE", "COPYING", "COPYRIGHT", "NOTICE", "UNLICENSE")


def texts(folder):
    for path in sorted(folder.iterdir()):
        if path.is_file() and path.name.upper().startswith(NAMES):
            yield path.read_text(errors="replace").replace("\r\n", "\n").strip() + "\n"


def main(program, target):
    wanted = linked(program, target)
    packages = json.loads(cargo("metadata", "--locked", "--format-version", "1"))["packages"]
    holders = {}
    for package in sorted(packages, key=lambda each: (each["name"], each["version"])):
        if (package["name"], package["version"]) not in wanted or not package["source"]:
            continue
        title = f"{package['name']} {package['version']} ({package['license']})"
        found = list(texts(pathlib.Path(package["manifest_path"]).parent))
        # Some crates state a licence and bring no text; the statement is all there is to hand on.
        for text in found or [""]:
            holders.setdefault(text, []).append(title)
    print("The program contains the libraries and crates below, each under its own licence.\n")
    for library in LIBRARIES:
        if library.stem != "musl" or "musl" in target:
            print("=" * 78, library.read_text(), sep="\n")
    for text, titles in sorted(holders.items(), key=lambda each: each[1]):
        print("=" * 78, *titles, "-" * 78, text, sep="\n")


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(*sys.argv[1:])
