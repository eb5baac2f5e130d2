"""Planted bugs for the check itself: each change behind its back must be seen."""

from crashlib import Server, Violation, scratch, until
from load import value_of
from world import World


def _older_value(world, client):
    """An acknowledged overwrite is undone: the key holds its former value again."""
    writer, key = world.writers[0], None
    for key, held in writer.state.items():
        if key.startswith("s:") and not held[1]:
            break
    client.expect("SET", key, value_of(key, writer.state[key][0] - 1, False))


def _missing_key(world, client):
    """An acknowledged key is gone."""
    client.expect("DEL", next(key for key in world.writers[1].state if key.startswith("s:")))


def _value_of_another(world, client):
    """A key holds another key's value."""
    one, other = [key for key in world.writers[0].state if key.startswith("s:")][:2]
    client.expect("SET", one, client.expect("GET", other))


def _half_transfer(_, client):
    """One half of a transaction."""
    client.expect("INCRBY", "b:3", 7)


def _shifted_transfer(_, client):
    """A transfer that nobody asked for; the sum is right."""
    client.expect("MULTI")
    client.expect("INCRBY", "b:3", 7)
    client.expect("DECRBY", "b:4", 7)
    client.expect("EXEC")


def _lost_increment(_, client):
    """A counter that is behind."""
    client.expect("DECR", "c:0")


def _lost_append(world, client):
    """An appended token is missing in the middle."""
    key, held = next((key, held) for key, held in world.writers[2].state.items()
                     if key.startswith("a:") and len(held) > 24)
    client.expect("SET", key, held[:8] + held[16:])


def _resurrected_key(_, client):
    """A key that nobody wrote."""
    client.expect("SET", "s:0:999999", "x")


def _lost_deadline(world, client):
    """A key that was to expire stays for ever."""
    key = next(key for writer in world.writers for key, held in writer.state.items()
               if key.startswith("s:") and held[1])
    client.expect("PERSIST", key)


PLANTED = [_older_value, _missing_key, _value_of_another, _half_transfer, _shifted_transfer, _lost_increment,
           _lost_append, _resurrected_key, _lost_deadline]


def run(seed, say):
    """Plants each; a violation if one is not seen."""
    with scratch() as folder:
        for plant in PLANTED:
            server = Server(folder / plant.__name__, folder / "server.log").start()
            world = World(seed)
            with server.client() as client:
                world.prepare(client)
                world.run(server, lambda: until(lambda: world.pending > 3000, "some operations are acknowledged"))
                world.check(client)
                plant(world, client)
                try:
                    world.check(client)
                except Violation as seen:
                    say(f"planted: {plant.__doc__} Seen: {str(seen)[:100]!r}")
                else:
                    raise Violation(f"the check does not see it: {plant.__doc__}")
            server.kill()
    return {"planted": len(PLANTED)}
