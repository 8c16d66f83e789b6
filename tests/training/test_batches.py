"""Batches: read ahead beside the computing, at the positions that a run goes on from; no thread is left behind."""

import threading
import time

import pytest
import torch

from fewstep.data.loading import open_data
from fewstep.training.batches import AHEAD, Batches, Pace, Split
from fewstep.training.recipe import load_recipe
from fewstep.training.stage import Stage

CPU = torch.device("cpu")


class Recorded:
    """Data that note which positions they are asked for, and by which thread; from `fault` on they fail."""

    def __init__(self, fault=1 << 30, seconds=0.0):
        self.asked, self.threads, self.fault, self.seconds = [], set(), fault, seconds

    def batch(self, start, count):
        self.asked.append((start, count))
        self.threads.add(threading.current_thread())
        time.sleep(self.seconds)
        if start >= self.fault:
            raise OSError(f"nothing at {start}")
        return torch.arange(start, start + count)[:, None].float(), torch.zeros(count).long()


def batches(data, updates=6, process=0, processes=1, **changes):
    settings = load_recipe(None, {"train.batch_size": 2} | changes).train
    stage = Stage("stage", updates, 1e-3, "constant", lambda draws: {"t": draws.uniform()}, lambda denoiser, batch: batch["t"])
    return Batches(stage, data, settings, Split(process, processes, CPU))


def positions(read, update, start):
    return torch.cat([batch["x"] for batch in read.of(update, start)]).flatten().long().tolist()


def test_every_process_and_micro_batch_gets_its_slice_of_the_global_batch():
    with batches(Recorded(), process=1, processes=3, **{"train.gradient_accumulation": 2}) as read:
        assert [positions(read, update, 12 * update + 5) for update in range(3)] == [
            [start + k for k in (2, 3, 8, 9)] for start in (5, 17, 29)
        ]


def test_what_follows_is_read_before_it_is_asked_for_and_nothing_beyond_the_end():
    data = Recorded()
    with batches(data) as read:
        positions(read, 0, 0)
        for _ in range(500):
            if len(data.asked) == 1 + AHEAD:
                break
            time.sleep(0.01)
        assert data.asked == [(2 * k, 2) for k in range(1 + AHEAD)]
        for update in range(1, 6):
            positions(read, update, 2 * update)
    assert data.asked == [(2 * k, 2) for k in range(6)]
    assert threading.current_thread() not in data.threads and len(data.threads) == 1


def test_a_run_that_goes_on_elsewhere_gets_what_is_there():
    with batches(Recorded()) as read:
        positions(read, 0, 0)
        assert positions(read, 3, 40) == [40, 41] and positions(read, 4, 42) == [42, 43]


def test_a_fault_comes_up_with_its_batch_and_no_thread_is_left():
    data = Recorded(fault=4)
    with batches(data) as read:
        assert [positions(read, update, 2 * update) for update in range(2)] == [[0, 1], [2, 3]]
        with pytest.raises(OSError, match="nothing at 4"):
            positions(read, 2, 4)
    assert not any(thread.is_alive() for thread in data.threads)


def test_data_that_ask_the_network_are_not_read_ahead():
    data = Recorded()
    data.ahead = False
    with batches(data) as read:
        positions(read, 0, 0)
        positions(read, 1, 2)
    assert data.asked == [(0, 2), (2, 2)]


def test_waiting_is_noted_and_its_share_is_of_the_time_since_the_last_report():
    with batches(Recorded(seconds=0.05)) as read:
        positions(read, 0, 0)
        assert read.waited >= 0.05
    pace = Pace(0, read)
    read.waited += 1e9
    assert [pace.waiting(), pace.waiting()] == [1.0, 0.0]


@pytest.mark.parametrize("ahead", [True, False])
def test_streamed_pictures_come_in_the_same_order_read_ahead_or_not(tmp_path, ahead):
    from PIL import Image

    for k in range(12):
        file = tmp_path / "ab"[k % 2] / f"{k}.png"
        file.parent.mkdir(exist_ok=True)
        Image.new("L", (4, 4), 20 * k).save(file)
    streamed, whole = (open_data(path=str(tmp_path), size=4, streaming=streaming, flip=True) for streaming in (True, False))
    streamed.ahead = ahead
    with batches(streamed, updates=20) as read:
        for update in (*range(9), 4, 5, 17):
            (batch,) = read.of(update, 2 * update)
            x, labels = whole.batch(2 * update, 2)
            assert torch.equal(batch["x"], x) and torch.equal(batch["condition"], labels)
