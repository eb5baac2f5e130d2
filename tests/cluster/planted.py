"""Planted bugs for the verdict on recorded clients: made-up histories, and a server that is changed behind their backs."""

from crashlib import Server, Violation, until
from history import Recorder, judge

# What must be seen, by its lines for the judge.
WRONG = {
    "an acknowledged write is gone": "10 invoke 0 c0 k1 set 5\n11 return 0 ok\n20 invoke 1 c1 k1 get\n21 return 1 value nil\n",
    "an acknowledged increment counts twice":
        "10 invoke 0 c0 k1 incrby 5\n11 return 0 number 5\n20 invoke 1 c1 k1 get\n21 return 1 value 10\n",
    "an increment without an answer counts twice":
        "10 invoke 0 c0 k1 incrby 5\n20 invoke 1 c1 k1 get\n21 return 1 value 5\n30 invoke 2 c1 k1 get\n31 return 2 value 10\n",
    "a write that was refused is there":
        "10 invoke 0 c0 k1 set 5\n11 refuse 0\n20 invoke 1 c1 k1 get\n21 return 1 value 5\n",
    "an old value is read":
        "10 invoke 0 c0 k1 set 5\n11 return 0 ok\n20 invoke 1 c0 k1 set 6\n21 return 1 ok\n30 invoke 2 c1 k1 get\n31 return 2 value 5\n",
    "what was read is gone, though its write had no answer":
        "10 invoke 0 c0 k1 set 5\n20 invoke 1 c1 k1 get\n21 return 1 value 5\n30 invoke 2 c1 k1 get\n31 return 2 value nil\n",
}
# What may happen, and must be let through.
RIGHT = {
    "a write without an answer shows late":
        "10 invoke 0 c0 k1 set 5\n20 invoke 1 c1 k1 get\n21 return 1 value nil\n30 invoke 2 c1 k1 get\n31 return 2 value 5\n",
    "a read beside a write gives either":
        "10 invoke 0 c0 k1 set 5\n11 invoke 1 c1 k1 get\n12 return 1 value 5\n13 return 0 ok\n",
}


def _forget(client, name, _amount):
    client.expect("DEL", name)


def _lose_one(client, name, amount):
    client.expect("INCRBY", name, -amount)


def _repeat_one(client, name, amount):
    client.expect("INCRBY", name, amount)


CHANGES = {"a key is lost": _forget, "an increment is lost": _lose_one, "an increment is repeated": _repeat_one,
           "nothing is changed": None}


def is_seen(text, path):
    try:
        judge(text, path)
    except Violation as violation:
        if "not linearizable" not in str(violation):
            raise
        return True
    return False


def counted_in(recorder):
    """An acknowledged increment of the first key, with what came before and after it."""
    found = (one for one in list(recorder.log.requests)[:-20] if one["words"][0] == "incrby" and one["reply"] and one["key"] == 0)
    return next(found, None)


def must(what, seen, wrong):
    if seen != wrong:
        raise Violation(f"{what}, which was {'seen' if seen else 'not seen'}")


def a_write_that_is_lost_or_doubled_is_noticed(folder, seed, say):
    """Each of these changes, and nothing else."""
    for cases, wrong in ((WRONG, True), (RIGHT, False)):
        for number, (what, text) in enumerate(cases.items()):
            must(what, is_seen(text, folder / f"made-up{number}.txt"), wrong)
    server = Server(folder / "data", folder / "log").start()
    for number, (what, change) in enumerate(CHANGES.items()):
        recorder = Recorder([server.port], f"{seed}/{number}").start()
        counted = until(lambda recorder=recorder: counted_in(recorder), "an increment is acknowledged", 30)
        recorder.stop()
        if change:
            with server.client() as client:
                change(client, recorder.name(0), counted["words"][1])
        recorder.read_all(server.port)
        must(what, is_seen(recorder.log.text(), folder / f"history{number}.txt"), change is not None)
    server.kill()
    say(f"{len(WRONG)} made-up histories and {len(CHANGES) - 1} changes of a server seen; {len(RIGHT)} and an unchanged one let through")
