#!/usr/bin/env python3
"""A well-behaved client beside the hostile ones: witness.py PORT [PASSWORD].

A process of its own, so that nothing in the test slows it down. It writes and reads back in one
transaction until its standard input ends; then it prints how many it did and the longest that one took.
Anything else than the right answer ends it with exit code 1 and the reason.
"""

import json
import select
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "crash"))

from crashlib import Client, Violation, encode  # noqa: E402

SILENCE_SECONDS_MAX = 20
PAUSE_SECONDS = 0.002


def main():
    port, password = int(sys.argv[1]), sys.argv[2:]
    done, longest = 0, 0.0
    with Client(port, SILENCE_SECONDS_MAX) as client:
        if password:
            client.expect("AUTH", password[0])
        # One line tells that it is at work.
        print("at work", flush=True)
        while done == 0 or not select.select([sys.stdin], [], [], PAUSE_SECONDS)[0]:
            value = f"value {done}"
            began = time.monotonic()
            requests = ["MULTI"], ["SET", "witness", value], ["GET", "witness"], ["EXEC"]
            client.send(b"".join(encode(*words) for words in requests))
            answers = [client.read() for _ in range(4)]
            longest = max(longest, time.monotonic() - began)
            if answers != ["OK", "QUEUED", "QUEUED", ["OK", value.encode()]]:
                raise Violation(f"wrong answers: {answers}")
            done += 1
    print(json.dumps({"requests": done, "longest_ms": round(longest * 1000)}))


if __name__ == "__main__":
    try:
        main()
    except (Violation, ConnectionError) as error:
        print(f"{error}", flush=True)
        sys.exit(1)
