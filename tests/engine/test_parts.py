"""The parts of our Scheduler: in which order they change what upstream does, and why.

A method that two parts override runs through both, in the order of their inheritance. Each such
pair is listed here with what its order is for, so that a new one has to be thought about.
"""

from __future__ import annotations

from collections import defaultdict
from itertools import pairwise

from ha_scheduler.engine.base import SchedulerBase
from ha_scheduler.engine.scheduler import Scheduler

#: Method → the parts that override it, the outermost first.
ORDERS: dict[str, tuple[str, ...]] = {
    # What ScatteredData refuses Intents must not have recorded.
    "update_data": ("ScatteredData", "Intents"),
    # Why it was lost is told before, and instead of, that it is not known.
    "_tell_unknown": ("ScatteredData", "Clients"),
    # A worker whose stream has just broken is not removed, so nothing of it counts as suspicious.
    # Of what counts, it is noted which run it was.
    "remove_worker": ("Workers", "UnseenDeaths", "Attempts"),
    # Late reports are adopted, then actors that are in none are lost.
    "spoke": ("Actors", "WithheldTasks"),
    # A failure that a new leader's takeover caused takes no retry.
    "stimulus_task_erred": ("InheritedTasks", "Attempts"),
    # ``ClientLeft`` is in the log before the notices that it makes void.
    "remove_client": ("Clients", "Cancellation", "Intents"),
    # Each forgets what it knows of the key.
    "_remove_key": ("Intents", "WithheldTasks"),
    # Time goes on for turns; a run that a former leader began is judged.
    "stimulus_task_finished": ("Turns", "InheritedTasks"),
    # Errors are withdrawn, and the records of lost actors.
    "stimulus_retry": ("Actors", "Intents"),
}

#: Here each does a thing of its own, and no order is better than another.
ANY = {"_remove_key", "stimulus_retry", "stimulus_task_finished"}


def _parts() -> list[type]:
    mro = Scheduler.__mro__
    return list(mro[1 : mro.index(SchedulerBase)])


def _overriding() -> dict[str, tuple[str, ...]]:
    found: defaultdict[str, list[str]] = defaultdict(list)
    for part in _parts():
        for name, value in vars(part).items():
            if callable(value) and not name.startswith("__"):
                found[name].append(part.__name__)
    return {name: tuple(parts) for name, parts in found.items() if len(parts) > 1}


def test_parts_that_override_one_method_do_so_in_a_stated_order() -> None:
    assert _overriding() == ORDERS


def test_an_order_that_matters_is_one_of_inheritance() -> None:
    parts = {part.__name__: part for part in _parts()}
    for name in ORDERS.keys() - ANY:
        for first, second in pairwise(ORDERS[name]):
            assert issubclass(parts[first], parts[second]), (name, first, second)


def test_every_part_passes_on_what_another_overrides_as_well() -> None:
    parts = {part.__name__: part for part in _parts()}
    for name, order in _overriding().items():
        for part in order[:-1]:
            assert "super" in vars(parts[part])[name].__code__.co_names, (part, name)
