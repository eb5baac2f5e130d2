#!/usr/bin/env python3
"""What `make dist` makes runs elsewhere: on a bare Debian 12, from any folder, without root, as an image.

The tarball is unpacked in two places of a Debian 12 that has nothing but its base system, run there by a
user without rights, its data checked; the .deb is installed, verified, run, removed; the image archive is
read by skopeo, unpacked and started as its own configuration says. Two runs of `make dist` give the same bytes,
and `make start` in a fresh clone uses them: no compiler on its PATH. Needs root and debootstrap.
"""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "proofs" / "lib"))

from bare_system import Node, debian_12, inside, run, unpack_image  # noqa: E402
from generator import say  # noqa: E402
from record import Bar, write  # noqa: E402
from servers import folder  # noqa: E402

START_SECONDS_MAX = 60
# A user that no package made.
STRANGER = {"uid": 12345, "gid": 12345}


def artefact(pattern):
    """The one file in dist/ with such a name."""
    found = list((ROOT / "dist").glob(pattern))
    if len(found) != 1:
        raise RuntimeError(f"dist/ holds {len(found)} files like {pattern}")
    return found[0]


def same_bytes(_):
    """Made twice from one tree."""
    sums = []
    for _ in range(2):
        run(ROOT / "scripts" / "dist")
        sums.append((ROOT / "dist" / "SHA256SUMS").read_text(encoding="ascii"))
    if sums[0] != sums[1]:
        raise RuntimeError(f"two runs differ: {sums}")
    return {"files": [line.split()[1] for line in sums[0].splitlines()]}


def tarball(place):
    """From two folders, by a stranger, with data that passes its check."""
    root = debian_12(place)
    seconds = []
    for where in ("opt", "srv/some where else"):
        target = root / where
        target.mkdir(parents=True, exist_ok=True)
        run("tar", "-xzf", artefact("holdfast-*.tar.gz"), "-C", target)
        program = "/" + str(next(target.glob("holdfast-*/bin/holdfast")).relative_to(root))
        data = root / "data" / where.replace("/", "-")
        data.mkdir(parents=True)
        os.chown(data, *STRANGER.values())
        inner = "/" + str(data.relative_to(root))
        node = Node(root, program, "serve", "--data", inner, **STRANGER)
        node.must_serve()
        node.stop()
        run(*inside(root, program, "check", "--data", inner, **STRANGER))
        seconds.append(round(node.seconds, 2))
    return {"seconds_to_ready": seconds}


def debian_package(place):
    """Installed by dpkg alone: what it depends on is in the base system."""
    root = debian_12(place)
    shutil.copy(artefact("holdfast_*.deb"), root / "holdfast.deb")
    run(*inside(root, "/usr/bin/dpkg", "--install", "/holdfast.deb"))
    changed = run(*inside(root, "/usr/bin/dpkg", "--verify", "holdfast"))
    if changed:
        raise RuntimeError(f"dpkg --verify: {changed}")
    unit = (root / "lib/systemd/system/holdfast.service").read_text(encoding="utf-8")
    words = next(line for line in unit.splitlines() if line.startswith("ExecStart=")).removeprefix("ExecStart=").split()
    data = root / "var/lib/holdfast"
    data.mkdir()
    os.chown(data, *STRANGER.values())
    node = Node(root, *words, **STRANGER)
    node.must_serve()
    node.stop()
    run(*inside(root, "/usr/bin/dpkg", "--purge", "holdfast"))
    if (root / "usr/bin/holdfast").exists() or (root / "etc/holdfast").exists():
        raise RuntimeError("something is left after the package was purged")
    if not any(data.iterdir()):
        raise RuntimeError("purging the package removed the data")
    return {"depends": run("dpkg-deb", "--field", artefact("holdfast_*.deb"), "Depends").strip()}


def image(place):
    """As a container engine would run it: its entrypoint, its command, its user, its ports."""
    archive = artefact("holdfast-*.oci.tar")
    run("skopeo", "inspect", f"oci-archive:{archive}")
    run("skopeo", "copy", f"oci-archive:{archive}", f"dir:{place / 'copied'}")
    root = place / "image"
    config = unpack_image(archive, root)
    uid, gid = (int(part) for part in config["User"].split(":"))
    node = Node(root, *config["Entrypoint"], *config["Cmd"], uid=uid, gid=gid)
    node.must_serve()
    if node.user() != uid or uid == 0:
        raise RuntimeError(f"it runs as user {node.user()}")
    node.stop()
    return {"bytes": archive.stat().st_size, "user": uid}


def start_of_an_artefact(place):
    """`make start` in a fresh clone with these files in dist/, and no Rust in reach."""
    if not (ROOT / "dist" / "TREE").exists():
        raise RuntimeError("the work tree has changes, so that make start must not use what was made from it")
    clone = place / "clone"
    run("git", "clone", "--quiet", ROOT, clone)
    shutil.copytree(ROOT / "dist", clone / "dist")
    began = time.monotonic()
    process = subprocess.Popen(
        ["make", "start", "ARGS=--ports auto"], cwd=clone, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HOME": str(place)}, text=True, start_new_session=True)
    said = []
    try:
        for line in process.stdout:
            said.append(line)
            if line.startswith("ready "):
                break
        seconds = time.monotonic() - began
    finally:
        # The session is this proof's own: make, the node, the reader of its output.
        os.killpg(process.pid, 15)
        said += process.communicate()[0].splitlines()
    if not said[0].startswith("holdfast: using the artefact") or not any(line.startswith("ready ") for line in said):
        raise RuntimeError(f"make start said {said}")
    if seconds > START_SECONDS_MAX:
        raise RuntimeError(f"{seconds:.0f} s to ready, more than {START_SECONDS_MAX}")
    return {"seconds_to_ready": round(seconds, 2)}


STEPS = [same_bytes, tarball, debian_package, image, start_of_an_artefact]


def main():
    if os.geteuid() != 0:
        sys.exit("dist: needs root")
    run(ROOT / "scripts" / "prepare", "dist", "proof")
    bars, detail = [], {}
    for step in STEPS:
        name = step.__name__.replace("_", " ")
        try:
            detail[name] = step(folder("dist"))
        except (RuntimeError, OSError, subprocess.SubprocessError) as error:
            detail[name] = {"failed": str(error)[:500]}
        say(f"{name}: {detail[name]}")
        bars.append(Bar(f"{name}: failed", int("failed" in detail[name]), "=", 0))
    write("dist", bars, steps=detail)


if __name__ == "__main__":
    main()
