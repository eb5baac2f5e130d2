"""The same over S3, against a real server."""

import json
from pathlib import Path

import archive_cases
from crashlib import scratch
from node import Node, Writers, expect, listed, must, refused, restore, run, steps_in
from weed import BUCKET, SECRET_KEY, Weed

# Objects above one part of 5 MiB go up in parts.
PART_BYTES = 5 << 20


def round_trip(say):
    """Backup under load, incremental, in parts, listed, restored; archived and restored to points."""
    with scratch() as folder, Weed(folder) as store:
        url = f"s3://{BUCKET}/node-1"
        settings = {"memory": "512MiB", "engine.replay_bytes_max": "64MiB"}
        node = Node(folder, settings=settings, environment=store.environment).start()
        with node.client() as client:
            client.pipeline([("SET", f"bulk:{n}", noise(n)) for n in range(3000)])
        with Writers(node) as writers:
            writers.wait_for(50)
            before = list(writers.acked)
            first = node.backup(url)
        uploaded = node.metric("holdfast_backup_bytes_uploaded_total")
        node.backup(url)
        again, reused = node.backup_again(url)
        must(again < 100_000 and reused > uploaded / 2, f"nothing was written, but {again} bytes were stored again")
        names = listed(url, store.environment)
        must(len(names) >= 3 and names[0] == first, f"all are listed: {names}")
        largest = largest_file(node)
        must(largest > PART_BYTES, f"no file of several parts: {largest}")
        node.kill()
        must(not secrets_in(folder), f"a secret in {secrets_in(folder)}")
        copy = Node(folder, "copy", settings=settings)
        restore(url, copy.data, "--backup", first, environment=store.environment)
        reached = steps_in(copy.start(), len(before))
        must(all(r >= a for r, a in zip(reached, before)), f"acknowledged {before}, restored {reached}")
        with copy.client() as client:
            must(client.expect("GET", "bulk:2999") == noise(2999), "the last bulk value")
        copy.kill()
        say(f"{uploaded:.0f} bytes uploaded, largest file {largest}")
        archive_cases.point_in_time(say, f"s3://{BUCKET}/node-2", store.environment, chosen=[7, 21])


def refusals(say):
    """Wrong and missing credentials, an absent bucket and a server that is gone: clear errors, no secret."""
    with scratch() as folder, Weed(folder) as store:
        url = f"s3://{BUCKET}/x"
        wrong = {**store.environment, "AWS_SECRET_ACCESS_KEY": "wrong-" + SECRET_KEY}
        node = Node(folder, environment=wrong).start()
        said = node.backup(url, code=1)
        must("the backup failed" in said and SECRET_KEY not in said, said)
        node.kill()
        missing = {name: "" for name in store.environment}
        said = expect(run("backup", "list", url, environment=missing), 1)
        must("AWS_ACCESS_KEY_ID" in said, said)
        must("there is no backup here" in refused(url, folder / "none", environment=store.environment), "none")
        node.environment = store.environment
        node.start()
        store.stop()
        said = node.backup(url, code=1)
        must("the backup failed" in said, said)
        with node.client() as client:
            client.expect("SET", "still", "works")
        node.kill()
        must(not secrets_in(folder), f"a secret in {secrets_in(folder)}")
        say(said.strip()[:160])


def noise(number):
    """Bytes that no codec makes smaller: 8 KB."""
    import random
    return random.Random(number).randbytes(8000)


def largest_file(node):
    return max(path.stat().st_size for path in (node.data / "engine").glob("*.sst"))


def secrets_in(folder):
    """Files of logs that hold the secret."""
    return [path.name for path in Path(folder).glob("node*.log") if SECRET_KEY in path.read_text(errors="replace")]
