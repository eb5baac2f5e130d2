#!/usr/bin/env python3
"""An OCI image archive of one program, made without a container engine.

  image.py BINARY VERSION OUTPUT.tar [--licence FILE]

One layer: the program, the shared libraries it loads (from ldd) with their packages' copyright
files, a user without rights, an empty data folder and /tmp. No shell, no package manager.
The result is an OCI image layout in a tar: `podman load`, `skopeo copy oci-archive:` and recent
`docker load` read it. The same inputs give the same bytes (SOURCE_DATE_EPOCH is the only time).
After writing, the archive is read again and every digest, size and library in it is checked.
"""

import argparse
import gzip
import hashlib
import io
import json
import os
import platform
import subprocess
import sys
import tarfile
from datetime import datetime, timezone
from pathlib import Path

USER = 10001
TIME = int(os.environ.get("SOURCE_DATE_EPOCH", "0"))
DATA = "var/lib/holdfast"
PROGRAM = "usr/bin/holdfast"
ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"
INDEX = "application/vnd.oci.image.index.v1+json"


def digest(blob):
    return "sha256:" + hashlib.sha256(blob).hexdigest()


def shared_libraries(binary):
    """The absolute paths, as the loader names them, of all that the program loads."""
    out = subprocess.run(["ldd", binary], check=True, capture_output=True, text=True).stdout
    paths = set()
    for line in out.splitlines():
        if "not found" in line:
            sys.exit(f"a library is missing here: {line.strip()}")
        words = line.replace("=>", " ").split()
        paths.update(word for word in words if word.startswith("/"))
    if not paths:
        sys.exit(f"ldd names no library of {binary}: {out}")
    return sorted(paths)


def copyright_of(library):
    """The copyright file of the package that a library belongs to, if dpkg knows it."""
    for name in {library, os.path.realpath(library), "/usr" + library}:
        done = subprocess.run(["dpkg", "-S", name], capture_output=True, text=True)
        package = done.stdout.split(":", 1)[0].strip()
        path = Path("/usr/share/doc") / package / "copyright"
        if done.returncode == 0 and path.is_file():
            return path
    return None


def add(tar, name, content=None, mode=0o644, owner=0):
    """One entry; a folder where there is no content."""
    entry = tarfile.TarInfo(name)
    entry.mtime, entry.uid, entry.gid, entry.mode = TIME, owner, owner, mode
    if content is None:
        entry.type = tarfile.DIRTYPE
        tar.addfile(entry)
    else:
        entry.size = len(content)
        tar.addfile(entry, io.BytesIO(content))


def root_file_system(binary, licence):
    """The layer, uncompressed."""
    files = {
        PROGRAM: (Path(binary).read_bytes(), 0o755),
        "etc/passwd": (f"root:x:0:0:root:/:/none\nholdfast:x:{USER}:{USER}:holdfast:/{DATA}:/none\n".encode(), 0o644),
        "etc/group": (f"root:x:0:\nholdfast:x:{USER}:\n".encode(), 0o644),
        "etc/nsswitch.conf": (b"passwd: files\ngroup: files\nhosts: files dns\n", 0o644),
    }
    if licence:
        files["usr/share/doc/holdfast/LICENSE"] = (Path(licence).read_bytes(), 0o644)
    for library in shared_libraries(binary):
        files[library.lstrip("/")] = (Path(library).read_bytes(), 0o755)
        copyright_file = copyright_of(library)
        if copyright_file:
            files[str(copyright_file).lstrip("/")] = (copyright_file.read_bytes(), 0o644)
    folders = {"tmp": (0o1777, 0), DATA: (0o700, USER)}
    for name in [*files, *folders]:
        for parent in Path(name).parents:
            if str(parent) != ".":
                folders.setdefault(str(parent), (0o755, 0))
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for name in sorted({*files, *folders}):
            if name in folders:
                mode, owner = folders[name]
                add(tar, name, mode=mode, owner=owner)
            else:
                content, mode = files[name]
                add(tar, name, content, mode)
    return out.getvalue()


def as_json(value):
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


def descriptor(media_type, blob, **more):
    return {"mediaType": media_type, "digest": digest(blob), "size": len(blob), **more}


def image(binary, version, licence):
    """The files of the image layout, by name."""
    architecture = ARCHITECTURES.get(platform.machine())
    if architecture is None:
        sys.exit(f"no OCI name is known here for the architecture {platform.machine()}")
    created = datetime.fromtimestamp(TIME, timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
    layer = root_file_system(binary, licence)
    packed = gzip.compress(layer, compresslevel=9, mtime=0)
    labels = {
        "org.opencontainers.image.title": "holdfast",
        "org.opencontainers.image.version": version,
        "org.opencontainers.image.licenses": "Apache-2.0",
        "org.opencontainers.image.created": created,
    }
    config = as_json({
        "created": created,
        "architecture": architecture,
        "os": "linux",
        "config": {
            "User": f"{USER}:{USER}",
            "ExposedPorts": {"6379/tcp": {}, "8080/tcp": {}},
            "Entrypoint": ["/" + PROGRAM],
            "Cmd": ["serve", "--data", "/" + DATA, "--redis", "0.0.0.0:6379", "--http", "0.0.0.0:8080"],
            "Volumes": {"/" + DATA: {}},
            "WorkingDir": "/" + DATA,
            "StopSignal": "SIGTERM",
            "Labels": labels,
        },
        "rootfs": {"type": "layers", "diff_ids": [digest(layer)]},
        "history": [{"created": created, "created_by": "deploy/oci/image.py"}],
    })
    manifest = as_json({
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": descriptor(CONFIG, config),
        "layers": [descriptor(LAYER, packed)],
        "annotations": labels,
    })
    index = as_json({
        "schemaVersion": 2,
        "mediaType": INDEX,
        "manifests": [descriptor(
            MANIFEST, manifest,
            platform={"architecture": architecture, "os": "linux"},
            annotations={"org.opencontainers.image.ref.name": version},
        )],
    })
    files = {"oci-layout": as_json({"imageLayoutVersion": "1.0.0"}), "index.json": index}
    for blob in (config, manifest, packed):
        files["blobs/sha256/" + digest(blob).removeprefix("sha256:")] = blob
    return files


def write(files, output):
    with tarfile.open(output, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for folder in ("blobs", "blobs/sha256"):
            add(tar, folder, mode=0o755)
        for name, content in sorted(files.items()):
            add(tar, name, content)


def check(output, binary):
    """Reads the archive as a container engine would; any disagreement ends the program."""
    with tarfile.open(output) as tar:
        files = {entry.name: tar.extractfile(entry).read() for entry in tar if entry.isfile()}

    def blob(described):
        content = files["blobs/" + described["digest"].replace(":", "/")]
        if digest(content) != described["digest"] or len(content) != described["size"]:
            sys.exit(f"{output}: {described['digest']} is not what it says")
        return content

    if json.loads(files["oci-layout"])["imageLayoutVersion"] != "1.0.0":
        sys.exit(f"{output}: not an OCI image layout")
    manifests = json.loads(files["index.json"])["manifests"]
    manifest = json.loads(blob(manifests[0]))
    config = json.loads(blob(manifest["config"]))
    layers = [gzip.decompress(blob(layer)) for layer in manifest["layers"]]
    if [digest(layer) for layer in layers] != config["rootfs"]["diff_ids"]:
        sys.exit(f"{output}: the layers differ from the config's diff_ids")
    if len(files) != 4 + len(layers):
        sys.exit(f"{output}: {len(files)} files, so some belong to nothing")
    if config["config"]["User"].startswith("0"):
        sys.exit(f"{output}: would run as root")
    with tarfile.open(fileobj=io.BytesIO(layers[0])) as tar:
        held = {entry.name: entry for entry in tar}
        program = tar.extractfile(PROGRAM).read()
    if program != Path(binary).read_bytes() or not held[PROGRAM].mode & 0o111:
        sys.exit(f"{output}: holds another program than {binary}")
    missing = [path for path in shared_libraries(binary) if path.lstrip("/") not in held]
    if missing:
        sys.exit(f"{output}: lacks {missing}")
    if held[DATA].uid != USER:
        sys.exit(f"{output}: the data folder belongs to {held[DATA].uid}")
    return digest(blob(manifests[0])), len(held)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("binary")
    parser.add_argument("version")
    parser.add_argument("output")
    parser.add_argument("--licence")
    options = parser.parse_args()
    write(image(options.binary, options.version, options.licence), options.output)
    manifest, entries = check(options.output, options.binary)
    print(f"{options.output}: {os.path.getsize(options.output)} bytes, {entries} entries, manifest {manifest}, checked")


main()
