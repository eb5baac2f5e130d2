#!/usr/bin/env python3
"""Measured values: one JSON line per proof and commit in docs/measured/<proof>.jsonl.

  measured.py write PROOF --value V (--at-least B | --at-most B | --exactly B) [--unit U]
              [--seed N] [--detail JSON]      append a line; exits 1 if the bar is not met
  measured.py has PROOF                       exits 0 if a line stands for the code as it is now
  measured.py table                           the newest line of every proof, as Markdown

`met` is computed here from value and bar, so a line cannot claim what its numbers deny.
A line stands for the code as it is now if nothing but documents (docs/, *.md) changed since its
commit; that way the results themselves can be committed. With uncommitted changes to anything
else the commit is marked "+changes", and such a line never counts as done.
"""

import argparse
import datetime
import json
import os
import platform
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FOLDER = Path(os.environ.get("HOLDFAST_MEASURED", ROOT / "docs" / "measured"))
NOT_DOCUMENTS = ["--", ".", ":(exclude)docs", ":(exclude,glob)**/*.md"]


def git(*arguments):
    done = subprocess.run(["git", "-C", str(ROOT), *arguments], capture_output=True, text=True)
    return done.stdout.strip() if done.returncode == 0 else None


def commit():
    """HEAD, marked where the code in the work tree is not HEAD's."""
    head = git("rev-parse", "--verify", "--quiet", "HEAD") or "none"
    clean = git("status", "--porcelain", *NOT_DOCUMENTS) == ""
    return head if clean else head + "+changes"


def machine():
    """Cores, processor, memory, kernel and distribution: what a number depends on; no host name."""
    processor = platform.machine()
    for line in lines("/proc/cpuinfo"):
        if line.startswith("model name"):
            processor = line.split(":", 1)[1].strip()
            break
    memory = next((int(line.split()[1]) for line in lines("/proc/meminfo") if line.startswith("MemTotal")), 0)
    system = next((line.split("=", 1)[1].strip('"') for line in lines("/etc/os-release") if line.startswith("PRETTY_NAME=")), "")
    cores = len(os.sched_getaffinity(0))
    return f"{cores} x {processor}, {round(memory / 2**20)} GiB, Linux {platform.release()}, {system}"


def lines(path):
    try:
        return Path(path).read_text(encoding="utf-8").splitlines()
    except OSError:
        return []


def entries(proof):
    return [json.loads(line) for line in lines(FOLDER / f"{proof}.jsonl") if line.strip()]


def stands(entry):
    """Whether the code measured by this entry is the code of now."""
    now = commit()
    if now.endswith("+changes") or entry["commit"].endswith("+changes"):
        return False
    return entry["commit"] == now or git("diff", "--name-only", entry["commit"], now, *NOT_DOCUMENTS) == ""


def write(options):
    wanted, bar = next((w, b) for w, b in (
        (">=", options.at_least), ("<=", options.at_most), ("=", options.exactly)) if b is not None)
    value = options.value
    met = {">=": value >= bar, "<=": value <= bar, "=": value == bar}[wanted]
    entry = {
        "proof": options.proof,
        "commit": commit(),
        "machine": machine(),
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "seed": options.seed,
        "value": value,
        "unit": options.unit,
        "bar": f"{wanted} {bar:g}",
        "met": met,
    }
    if options.detail:
        entry["detail"] = json.loads(options.detail)
    FOLDER.mkdir(parents=True, exist_ok=True)
    with open(FOLDER / f"{options.proof}.jsonl", "a", encoding="utf-8") as file:
        file.write(json.dumps(entry, ensure_ascii=False) + "\n")
    print(json.dumps(entry, ensure_ascii=False))
    sys.exit(0 if met else 1)


def table():
    print("| proof | value | bar | met | commit | date | machine |\n|---|---|---|---|---|---|---|")
    for path in sorted(FOLDER.glob("*.jsonl")):
        last = entries(path.stem)[-1:]
        for e in last:
            value = f"{e['value']:g}" + (f" {e['unit']}" if e.get("unit") else "")
            met = "yes" if e["met"] else "no"
            print(f"| {e['proof']} | {value} | {e['bar']} | {met} | {e['commit'][:12]} | {e['date'][:10]} | {e['machine']} |")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    one = commands.add_parser("write")
    one.add_argument("proof")
    one.add_argument("--value", type=float, required=True)
    bar = one.add_mutually_exclusive_group(required=True)
    bar.add_argument("--at-least", type=float)
    bar.add_argument("--at-most", type=float)
    bar.add_argument("--exactly", type=float)
    one.add_argument("--unit", default="")
    one.add_argument("--seed", type=int)
    one.add_argument("--detail", help="further numbers, as a JSON object")
    commands.add_parser("has").add_argument("proof")
    commands.add_parser("table")
    options = parser.parse_args()
    if options.command == "write":
        write(options)
    elif options.command == "has":
        sys.exit(0 if any(stands(e) for e in entries(options.proof)) else 1)
    else:
        table()


if __name__ == "__main__":
    main()
