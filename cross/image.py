#!/usr/bin/env python3
"""Writes an OCI image layout (image-spec 1.1) of one static program, without a daemon.

    cross/image.py PROGRAM VERSION FOLDER ARCHITECTURE=FILE=LICENCES...

The image holds the program, its config, the licences of what is in it, a user of its own and an empty state folder, and
nothing else: no shell, no libraries. FOLDER is the layout; FOLDER.tar beside it is the same as one file. Every time in it
is SOURCE_DATE_EPOCH, so that the same programs give the same bytes.
"""
import datetime
import gzip
import hashlib
import io
import json
import os
import pathlib
import shutil
import sys
import tarfile

USER_ID = 65532
EPOCH = int(os.environ["SOURCE_DATE_EPOCH"])
PORTS = {
    "vedette-agent": ["8125/udp", "8094/tcp", "8094/udp", "8462/tcp"],
    "vedette-aggregator": ["8461/udp", "8460/tcp"],
}
TITLES = {
    "vedette-agent": "Vedette agent: scores telemetry where it is produced",
    "vedette-aggregator": "Vedette aggregator: judges deviations and pages people",
}


def rootfs(program, binary, licences):
    """The only layer: a tar whose bytes depend on the program and the config alone."""
    name = program.removeprefix("vedette-")
    config = pathlib.Path(__file__).parent.joinpath("image", f"{name}.toml").read_bytes()
    passwd = f"root:x:0:0::/:/nonexistent\nvedette:x:{USER_ID}:{USER_ID}::/var/lib/{program}:/nonexistent\n"
    group = f"root:x:0:\nvedette:x:{USER_ID}:\n"
    files = {
        "etc/group": (0o644, group.encode()),
        "etc/passwd": (0o644, passwd.encode()),
        f"etc/vedette/{name}.toml": (0o644, config),
        f"usr/bin/{program}": (0o755, pathlib.Path(binary).read_bytes()),
        f"usr/share/doc/{program}/licences.txt": (0o644, pathlib.Path(licences).read_bytes()),
    }
    state = f"var/lib/{program}"
    paths = [pathlib.PurePath(path) for path in [*files, f"{state}/x"]]
    folders = {str(folder) for path in paths for folder in path.parents} - {"."}
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for path in sorted(folders | files.keys()):
            entry = tarfile.TarInfo(path)
            entry.mtime = EPOCH
            content = b""
            if path in folders:
                entry.type, entry.mode = tarfile.DIRTYPE, 0o755
            else:
                entry.mode, content = files[path]
            if path == state:
                # A volume that is mounted here begins with these permissions.
                entry.mode, entry.uid, entry.gid = 0o700, USER_ID, USER_ID
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    return out.getvalue()


def encode(value):
    return json.dumps(value, separators=(",", ":"), sort_keys=True).encode()


class Layout:
    """A folder of blobs, each called by its digest."""

    def __init__(self, folder):
        self.folder = pathlib.Path(folder)
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.joinpath("blobs/sha256").mkdir(parents=True)

    def add(self, media_type, content, **more):
        """Stores a blob and gives its descriptor."""
        digest = hashlib.sha256(content).hexdigest()
        self.folder.joinpath("blobs/sha256", digest).write_bytes(content)
        return {"mediaType": media_type, "digest": f"sha256:{digest}", "size": len(content), **more}

    def add_image(self, program, version, architecture, binary, licences):
        """Stores the image for one architecture and gives its manifest's descriptor."""
        tar = rootfs(program, binary, licences)
        architecture, _, variant = architecture.partition("/")
        created = datetime.datetime.fromtimestamp(EPOCH, datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
        name = program.removeprefix("vedette-")
        config = {
            "created": created,
            "architecture": architecture,
            "os": "linux",
            "config": {
                "User": f"{USER_ID}:{USER_ID}",
                "Entrypoint": [f"/usr/bin/{program}"],
                "Cmd": ["run", "--config", f"/etc/vedette/{name}.toml"],
                "Env": [f"{program.upper().replace('-', '_')}_STATE=/var/lib/{program}"],
                "ExposedPorts": {port: {} for port in PORTS[program]},
                "Volumes": {f"/var/lib/{program}": {}},
                "StopSignal": "SIGTERM",
                "WorkingDir": "/",
            },
            "rootfs": {"type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(tar).hexdigest()}"]},
            "history": [{"created": created, "created_by": "cross/image.py"}],
        }
        manifest = {
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": self.add("application/vnd.oci.image.config.v1+json", encode(config)),
            "layers": [self.add("application/vnd.oci.image.layer.v1.tar+gzip", gzip.compress(tar, 9, mtime=0))],
            "annotations": {
                "org.opencontainers.image.created": created,
                "org.opencontainers.image.title": TITLES[program],
                "org.opencontainers.image.version": version,
                "org.opencontainers.image.licenses": "Apache-2.0",
            },
        }
        platform = {"architecture": architecture, "os": "linux"}
        if variant:
            platform["variant"] = variant
        return self.add(manifest["mediaType"], encode(manifest), platform=platform)

    def finish(self, version, manifests):
        """Writes the index: one image for several architectures, under its version."""
        media_type = "application/vnd.oci.image.index.v1+json"
        index = {"schemaVersion": 2, "mediaType": media_type, "manifests": manifests}
        named = {"org.opencontainers.image.ref.name": version}
        image = self.add(media_type, encode(index), annotations=named)
        self.folder.joinpath("index.json").write_bytes(
            encode({"schemaVersion": 2, "mediaType": media_type, "manifests": [image]}))
        self.folder.joinpath("oci-layout").write_bytes(encode({"imageLayoutVersion": "1.0.0"}))
        self.archive()

    def archive(self):
        """The layout as one file, for `docker load` and `podman load`."""
        with tarfile.open(f"{self.folder}.tar", "w", format=tarfile.USTAR_FORMAT) as tar:
            for path in sorted(self.folder.rglob("*")):
                entry = tarfile.TarInfo(str(path.relative_to(self.folder)))
                entry.mtime = EPOCH
                if path.is_dir():
                    entry.type, entry.mode = tarfile.DIRTYPE, 0o755
                    tar.addfile(entry)
                else:
                    entry.mode, entry.size = 0o644, path.stat().st_size
                    with path.open("rb") as content:
                        tar.addfile(entry, content)


def main(program, version, folder, *binaries):
    layout = Layout(folder)
    parts = [binary.split("=", 2) for binary in binaries]
    layout.finish(version, [layout.add_image(program, version, *each) for each in parts])


if __name__ == "__main__":
    if len(sys.argv) < 5:
        sys.exit(__doc__)
    main(*sys.argv[1:])
