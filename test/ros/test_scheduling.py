"""Processors and nice values of real threads. No ROS needed."""

from __future__ import annotations

import os
import subprocess
import sys
import threading

import pytest

from instaseg_ros.errors import ConfigError
from instaseg_ros.ros import scheduling
from instaseg_ros.ros.scheduling import be_nice, numbers_in, ranges, use_processors

pytestmark = pytest.mark.skipif(
    not scheduling.THREADS.exists(), reason="needs Linux, where threads have files"
)


@pytest.mark.parametrize(
    ("text", "numbers", "again"),
    [
        ("3", {3}, "3"),
        ("3-3", {3}, "3"),
        ("0-2,6", {0, 1, 2, 6}, "0-2,6"),
        (" 6, 0 - 1,1-2", {0, 1, 2, 6}, "0-2,6"),
    ],
)
def test_lists_of_processors(text, numbers, again):
    assert numbers_in(text) == numbers
    assert ranges(numbers_in(text)) == again


@pytest.mark.parametrize(
    "text", ["a", "2-1", "1-", "-1", "1,,2", ",", "0x1", "1-2-3", "99999", " "]
)
def test_what_is_no_list(text):
    with pytest.raises(ConfigError, match=r"node.cpus: expected a list such as 0-2,6, got"):
        numbers_in(text)


def test_a_processor_that_is_not_there_is_refused():
    before = os.sched_getaffinity(0)
    with pytest.raises(ConfigError, match=r"node.cpus: expected some of .*, got 9000-9001 too"):
        use_processors(f"{ranges(frozenset(before))},9000-9001")
    assert os.sched_getaffinity(0) == before


def test_other_users_may_not_go_first(monkeypatch):
    def refuse(*_):
        raise PermissionError

    monkeypatch.setattr(os, "setpriority", refuse)
    be_nice(0)
    with pytest.raises(ConfigError, match=r"node.niceness: expected 0 or at least .*, got -5"):
        be_nice(-5)


# In a process of its own: not every user can take back what it does.
PROGRAM = """
import os, threading
from instaseg_ros.ros.scheduling import AT_START, be_nice, use_processors

def facts():
    it = threading.get_native_id()
    return sorted(os.sched_getaffinity(it)), os.getpriority(os.PRIO_PROCESS, it)

def made(what=lambda: None):
    found = []
    thread = threading.Thread(target=lambda: (what(), found.append(facts())))
    thread.start()
    thread.join()
    return found[0]

seen, go = [], threading.Event()
earlier = threading.Thread(target=lambda: (go.wait(), seen.append(facts())))
earlier.start()
last = max(AT_START)
nice = os.getpriority(os.PRIO_PROCESS, 0)
use_processors(str(last))
go.set()
earlier.join()
assert seen == [([last], nice)], seen
assert made() == ([last], nice)
child = []
assert made(lambda: (be_nice(7), child.append(made()))) == ([last], 7)
assert child == [([last], 7)]  # as its maker
assert facts() == ([last], nice)
use_processors("")
assert made() == (sorted(AT_START), nice)
"""


def test_processors_are_for_all_threads_and_niceness_for_those_made_afterwards():
    subprocess.run([sys.executable, "-c", PROGRAM], check=True)


def test_nothing_changes_by_default():
    def facts() -> tuple[set[int], int]:
        thread = threading.get_native_id()
        return os.sched_getaffinity(thread), os.getpriority(os.PRIO_PROCESS, thread)

    before = facts()
    use_processors("")
    be_nice(0)
    assert facts() == before
