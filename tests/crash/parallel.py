"""Work side by side, one process for each core: the load is made in Python, which uses one core at a time.

Guarantees: what fails in one does not stop the others; everything has ended when this returns or raises.
"""

import multiprocessing
import os
from concurrent.futures import ProcessPoolExecutor

# Fewer rounds than these are not worth a folder of their own.
ROUNDS_MIN = 10
_run = None


def cores():
    return len(os.sched_getaffinity(0))


def _call(job):
    return _run(job)


def side_by_side(run, jobs, on_each_core=1):
    """`run(job)` for every job, in processes forked from this one, so many on each core. Gives (result, None) or
    (None, exception) for each, in order."""
    global _run  # A forked process inherits it; a function could not be sent.
    _run = run
    with ProcessPoolExecutor(min(cores() * on_each_core, len(jobs)), multiprocessing.get_context("fork")) as pool:
        try:
            futures = [pool.submit(_call, job) for job in jobs]
            return [(None, future.exception()) if future.exception() else (future.result(), None) for future in futures]
        except BaseException:
            # A stopped test: its parts clean up as they would alone.
            pool.shutdown(wait=False, cancel_futures=True)
            for child in multiprocessing.active_children():
                child.terminate()
            raise


def shared_rounds(rounds, seed, count):
    """`rounds(seed, count)` split over the cores; gives the sum of the figures, or raises the first failure."""
    parts = max(1, min(cores(), count // ROUNDS_MIN))
    if parts == 1:
        return rounds(seed, count)
    shares = [count * (part + 1) // parts - count * part // parts for part in range(parts)]
    done = side_by_side(lambda part: rounds(f"{seed}/{part}", shares[part]), range(parts))
    for _, failure in done:
        if failure:
            raise failure
    return added([figures for figures, _ in done])


def added(figures):
    """Numbers are added, but those named `…_max` are maxima; what is no number has to be the same in all."""
    total = dict(figures[0])
    for other in figures[1:]:
        for name, value in other.items():
            if not isinstance(value, (int, float)):
                if value != total[name]:
                    raise RuntimeError(f"{name} is {total[name]} in one part and {value} in another")
            elif name.endswith("_max"):
                total[name] = max(total[name], value)
            else:
                total[name] += value
    return total
