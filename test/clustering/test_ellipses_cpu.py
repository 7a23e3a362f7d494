"""The compiled clustering's threads, memory, and the pixels it may skip."""

from __future__ import annotations

import dataclasses
import tracemalloc
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from embedding_scenes import (
    SMALL,
    assert_groups_of_oracle,
    oracle_groups,
    scene_of_discs,
    uniform_outputs,
)

from instaseg_ros.methods import spatial_embedding as method
from instaseg_ros.threads import each


def test_threads_change_nothing() -> None:
    """Neither those that share the work on an image, nor those that bring one image each."""
    scenes = [scene_of_discs(np.random.default_rng(k), (200, 100), 2, 2, k % 3) for k in range(8)]
    threads = torch.get_num_threads()
    try:
        for torch_threads in (1, 3):
            torch.set_num_threads(torch_threads)
            with ThreadPoolExecutor(4) as pool:
                together = list(pool.map(lambda one: method.group(*one, SMALL), scenes))
            for one, groups in zip(scenes, together, strict=True):
                expected = oracle_groups(one, SMALL)
                np.testing.assert_array_equal(groups.labels, expected.labels)
                np.testing.assert_array_equal(groups.scores, expected.scores)
    finally:
        torch.set_num_threads(threads)


def test_no_memory_is_taken_but_for_what_is_handed_out() -> None:
    """From the second image on; numpy's memory is traced, torch sees a part at a time."""
    outputs = scene_of_discs(np.random.default_rng(0), (300, 500), 2, 2, 0)
    outputs[2][0] = 2  # 150,000 points
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)  # no thread is new
        first = method.group(*outputs, SMALL)
        tracemalloc.start()
        groups = method.group(*outputs, SMALL)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
        torch.set_num_threads(threads)
    assert len(groups.scores) == len(first.scores) > 2
    assert groups.labels.nbytes < peak < groups.labels.nbytes + 100_000


def test_threads_that_share_the_work_start_no_others() -> None:
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        inside: list[int] = []
        each(lambda _: inside.append(torch.get_num_threads()), range(9))
        assert inside == [1] * 9
        assert torch.get_num_threads() == 3
        with ThreadPoolExecutor(1) as pool:
            assert pool.submit(torch.get_num_threads).result() == 3
    finally:
        torch.set_num_threads(before)


def test_seeds_of_infinite_scale_have_no_members() -> None:
    """All pixels point at one, so each seed would look at all others."""
    outputs = uniform_outputs(512, 512, 4, 4)
    y, x = np.mgrid[:512, :512]
    outputs[0][:] = np.arctanh([(256 - x) * method.STEP_X, (256 - y) * method.STEP_Y])
    outputs[1][:] = np.inf
    groups = method.group(*outputs, SMALL)
    assert not groups.labels.any()


def test_refused_instances_give_their_pixels_back() -> None:
    """The middle class loses most of itself to the best one, and the last lives on what it held."""
    outputs = uniform_outputs(24, 48, 1e4, -5, n_classes=3)
    outputs[2][0, :, :24], outputs[2][1, :, :40], outputs[2][2, :, 24:] = 5, 4, 3
    config = dataclasses.replace(SMALL, min_new_fraction=0.5)
    assert assert_groups_of_oracle(outputs, config).class_ids.tolist() == [0, 2]
