#!/usr/bin/python3
"""Runs the images of target/oci as cross/compose/compose.yaml says, without a daemon; stops at the first failure.

    cross/test_images.py          after cross/image.sh; needs root

Layouts are checked by skopeo, unpacked by umoci and run by runc, each service in a network namespace of its own. Broker and
Alertmanager are Debian's, with the config files of the compose file; so their images are what is not tested.
"""
import hashlib
import json
import os
import pathlib
import platform
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time

import yaml

HERE = pathlib.Path(__file__).resolve().parent
OCI = HERE.parent / "target/oci"
ARCHITECTURE = {"x86_64": "amd64", "aarch64": "arm64"}[platform.machine()]
BRIDGE = "vedettetest"
NETWORK = "10.231.77."
# What Debian has in place of an image that only a registry has.
STAND_INS = {
    "broker": ["/usr/sbin/mosquitto", "-c", "/mosquitto/config/mosquitto.conf"],
    "alertmanager": ["/usr/bin/prometheus-alertmanager", "--cluster.listen-address="],
}


def run(*words, **more):
    return subprocess.run(words, check=True, text=True, capture_output=True, **more).stdout


def expect(what, holds):
    if not holds:
        sys.exit(f"not so: {what}")
    print(f"  {what}")


def within(seconds, what, look):
    """Waits until `look` gives something true, and gives that."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if found := look():
            print(f"  {what}")
            return found
        time.sleep(0.3)
    sys.exit(f"not so within {seconds} s: {what}")


def check_layout(program, version):
    """Every blob is what its name says, and every architecture has what a container needs and no more."""
    folder = OCI / program
    blobs = {path.name: path.read_bytes() for path in folder.joinpath("blobs/sha256").iterdir()}
    expect("every blob has the digest that it is called by",
           all(hashlib.sha256(content).hexdigest() == name for name, content in blobs.items()))

    def blob(descriptor):
        content = blobs[descriptor["digest"].removeprefix("sha256:")]
        assert len(content) == descriptor["size"], descriptor
        return content
    [top] = json.loads(folder.joinpath("index.json").read_text())["manifests"]
    manifests = json.loads(blob(top))["manifests"]
    names = [each["platform"]["architecture"] for each in manifests]
    expect(f"one image for {' and '.join(names)}", {"amd64", "arm64"} <= set(names))
    for each in manifests:
        config = json.loads(blob(json.loads(blob(each))["config"]))
        assert config["architecture"] == each["platform"]["architecture"], each
        assert config["config"]["User"] == "65532:65532", config
        run("skopeo", "inspect", "--override-arch", config["architecture"], f"oci:{folder}:{version}")
    expect("skopeo reads it, and its user is not root", True)


def unpack(program, version, scratch):
    """The image of this machine's architecture as a bundle for runc."""
    run("skopeo", "--override-arch", ARCHITECTURE, "copy", "--quiet", f"oci:{OCI / program}:{version}", f"oci:{scratch}/flat-{program}:x")
    bundle = scratch / f"bundle-{program}"
    run("umoci", "unpack", "--image", f"{scratch}/flat-{program}:x", str(bundle))
    root = bundle / "rootfs"
    files = sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file())
    name = program.removeprefix("vedette-")
    expect("holds the program, its config, licences and user, and no shell",
           files == ["etc/group", "etc/passwd", f"etc/vedette/{name}.toml", f"usr/bin/{program}",
                     f"usr/share/doc/{program}/licences.txt"])
    headers = run("readelf", "--program-headers", str(root / f"usr/bin/{program}"))
    expect("its program is static", "INTERP" not in headers)
    return bundle


class Stage:
    """The compose file's services as processes."""

    def __init__(self, scratch, compose, bundles):
        self.scratch, self.compose, self.bundles = scratch, compose, bundles
        self.services = compose["services"]
        self.address = {name: f"{NETWORK}{place}" for place, name in enumerate(sorted(self.services), 2)}
        self.running, self.runs = {}, 0
        self.hosts = scratch / "hosts"
        self.hosts.write_text("".join(f"{address} {name}\n" for name, address in self.address.items()))

    def begin(self):
        """Makes the network."""
        run("ip", "link", "add", BRIDGE, "type", "bridge")
        run("ip", "addr", "add", f"{NETWORK}1/24", "dev", BRIDGE)
        run("ip", "link", "set", BRIDGE, "up")
        for place, (name, address) in enumerate(sorted(self.address.items())):
            space = f"vedette-{name}"
            run("ip", "netns", "add", space)
            run("ip", "link", "add", f"vedette{place}", "type", "veth", "peer", "name", "eth0", "netns", space)
            run("ip", "link", "set", f"vedette{place}", "master", BRIDGE, "up")
            run("ip", "-n", space, "addr", "add", f"{address}/24", "dev", "eth0")
            run("ip", "-n", space, "link", "set", "eth0", "up")
            run("ip", "-n", space, "link", "set", "lo", "up")

    def root(self, name):
        """The root file system of a service: its image's, or this machine's where Debian stands in."""
        if name not in STAND_INS:
            return self.bundles[self.services[name]["image"].split(":")[0]] / "rootfs"
        folders = [self.scratch / f"{part}-{name}" for part in ("root", "upper", "work")]
        if not folders[0].exists():
            for folder in folders:
                folder.mkdir()
            root, upper, work = folders
            run("mount", "-t", "overlay", "overlay", "-o", f"lowerdir=/,upperdir={upper},workdir={work}", str(root))
        return folders[0]

    def mounts(self, name):
        """The service's volumes; what a volume holds at first is what the image has there."""
        found = [{"destination": "/etc/hosts", "source": str(self.hosts), "type": "bind", "options": ["bind", "ro"]}]
        for volume in self.services[name].get("volumes", []):
            source, target, mode = volume.split(":")
            if not source.startswith("/"):
                folder = self.scratch / f"volume-{source}"
                if not folder.exists():
                    image = self.root(name) / target.lstrip("/")
                    folder.mkdir()
                    if image.exists() and name not in STAND_INS:
                        shutil.copystat(image, folder)
                        os.chown(folder, image.stat().st_uid, image.stat().st_gid)
                source = str(folder)
            found.append({"destination": target, "source": source, "type": "bind", "options": ["bind", mode]})
        return found

    def start(self, name, *words):
        """Starts a service; with `words` these are its arguments, and it is a run of its own."""
        service, root = self.services[name], self.root(name)
        bundle = self.scratch / f"run-{self.runs}"
        self.runs += 1
        bundle.mkdir()
        run("runc", "spec", "--bundle", str(bundle))
        config = json.loads(bundle.joinpath("config.json").read_text())
        process = config["process"]
        process["terminal"] = False
        process["capabilities"] = {} if "ALL" in service.get("cap_drop", []) else process["capabilities"]
        process["noNewPrivileges"] = "no-new-privileges:true" in service.get("security_opt", [])
        if name in STAND_INS:
            process["args"] = STAND_INS[name] + list(words or service.get("command", []))
            granted = ["CAP_CHOWN", "CAP_SETUID", "CAP_SETGID", "CAP_DAC_OVERRIDE"]
            process["capabilities"] = {kind: granted for kind in ("bounding", "effective", "permitted")}
        else:
            image = json.loads((root.parent / "config.json").read_text())["process"]
            process.update({key: image[key] for key in ("user", "env", "cwd")})
            program = service["image"].split(":")[0]
            short = program.removeprefix("vedette-")
            arguments = words or service.get("command") or ["run", "--config", f"/etc/vedette/{short}.toml"]
            process["args"] = [f"/usr/bin/{program}", *arguments]
        config["root"] = {"path": str(root), "readonly": service.get("read_only", False)}
        config["mounts"] += self.mounts(name)
        for space in config["linux"]["namespaces"]:
            if space["type"] == "network":
                space["path"] = f"/run/netns/vedette-{name}"
        bundle.joinpath("config.json").write_text(json.dumps(config))
        identity = f"vedettetest-{name}-{self.runs}"
        log = (self.scratch / f"{name}.log").open("a")
        child = subprocess.Popen(["runc", "run", "--bundle", str(bundle), identity],
                                 stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        self.running[identity] = child
        return identity

    def finish(self, identity):
        return self.running.pop(identity).wait(timeout=60)

    def kill(self, identity):
        run("runc", "kill", identity, "KILL")
        self.finish(identity)

    def execute(self, identity, *words):
        return run("runc", "exec", identity, *words).strip()

    def get(self, name, port, path):
        words = ["curl", "-fsS", "--max-time", "3", f"http://{self.address[name]}:{port}{path}"]
        answer = subprocess.run(words, text=True, capture_output=True)
        return answer.stdout if answer.returncode == 0 else ""

    def log(self, name):
        return (self.scratch / f"{name}.log").read_text()

    def end(self):
        for identity, child in self.running.items():
            subprocess.run(["runc", "kill", identity, "KILL"], capture_output=True)
            child.wait(timeout=30)
            subprocess.run(["runc", "delete", "--force", identity], capture_output=True)
        for name in self.services:
            subprocess.run(["ip", "netns", "del", f"vedette-{name}"], capture_output=True)
            subprocess.run(["umount", str(self.scratch / f"root-{name}")], capture_output=True)
        subprocess.run(["ip", "link", "del", BRIDGE], capture_output=True)


def play(stage):
    """What the compose file's header tells people to do, and then an agent that falls silent."""
    stage.start("alertmanager")
    stage.start("broker")
    aggregator = stage.start("aggregator")
    within(60, "the aggregator is ready", lambda: stage.get("aggregator", 8460, "/-/ready"))
    token = stage.execute(aggregator, "/usr/bin/vedette-aggregator", "token", "create", "--region", "uk")
    enrolling = stage.start("agent-uk", "enroll", "--aggregator", "aggregator:8461", "--token", token,
                            "--config", "/etc/vedette/agent.toml")
    expect("an agent enrols", stage.finish(enrolling) == 0)
    agents = [stage.start(name) for name in ("agent-uk", "agent-ie")]
    for name in ("agent-uk", "agent-ie"):
        within(60, f"{name} is connected",
               lambda name=name: "vedette_agent_connected 1" in stage.get(name, 8462, "/metrics"))

    def deliver(name):
        with socket.create_connection((stage.address[name], 8094)) as lines:
            lines.sendall(b"activity,device=tv,stack=playback value=820\n")
        found = re.search(r"records_delivered_total (\d+)", stage.get(name, 8462, "/metrics"))
        return found and int(found[1]) >= 3
    for name in ("agent-uk", "agent-ie"):
        within(180, f"what {name} is sent is committed", lambda name=name: deliver(name))
    known = stage.get("aggregator", 8460, "/api/v1/agents")
    expect("the aggregator knows both", "agent-uk" in known and "agent-ie" in known)
    stage.kill(agents[1])
    alert = within(300, "Alertmanager hears that an agent is silent",
                   lambda: "agent-ie" in (alerts := stage.get("alertmanager", 9093, "/api/v2/alerts")) and alerts)
    expect("and of no other", "agent-uk" not in alert)


def main():
    compose = HERE / "compose"
    version = os.environ.get("VEDETTE_VERSION", "0.1.0")
    with tempfile.TemporaryDirectory() as scratch:
        scratch = pathlib.Path(scratch)
        scratch.chmod(0o711)
        shutil.copytree(compose, scratch / "compose", ignore=shutil.ignore_patterns("secrets"))
        run(str(scratch / "compose/secrets.sh"))
        settings = yaml.safe_load(run("docker-compose", "config", cwd=scratch / "compose"))
        expect("docker-compose reads the compose file", len(settings["services"]) == 5)
        bundles = {}
        for program in ("vedette-agent", "vedette-aggregator"):
            print(program)
            check_layout(program, version)
            bundles[program] = unpack(program, version, scratch)
        print("compose")
        stage = Stage(scratch, settings, bundles)
        # What an interrupted run has left behind.
        stage.end()
        try:
            stage.begin()
            play(stage)
        except BaseException:
            for name in stage.services:
                print(f"--- {name}", stage.log(name) if (scratch / f"{name}.log").exists() else "", sep="\n")
            raise
        finally:
            stage.end()


if __name__ == "__main__":
    main()
