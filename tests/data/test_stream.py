from __future__ import annotations

import math
from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch

from sign_zs3.data.stream import (
    Loader,
    ShardSampler,
    Stream,
    StreamLoader,
    StreamSampler,
    UnscoredSamples,
    repeat_factors,
    worker_options,
)
from sign_zs3.data.transforms import training_preset
from sign_zs3.errors import UserError
from tests.data.conftest import ToyDataset, same_samples

# a machine with one core warns of two workers
pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning")

N, B = 11, 2


def toy_stream(seed: int = 0, **options: Any) -> Stream:
    return Stream(ToyDataset(N, training_preset(warp=None, crop=20)), range(N), seed, **options)


def take(loader: StreamLoader, count: int) -> list[dict[str, Any]]:
    """The next `count` batches, over the ends of epochs."""
    batches: list[dict[str, Any]] = []
    while len(batches) < count:
        for batch in loader:
            batches.append(batch)
            if len(batches) == count:
                break
    return batches


def same_batches(first: list[dict[str, Any]], second: list[dict[str, Any]]) -> bool:
    return len(first) == len(second) and all(map(same_samples, first, second))


def test_each_epoch_is_a_permutation() -> None:
    stream = toy_stream()
    epochs = [[stream.locate(p)[0] for p in range(e * N, (e + 1) * N)] for e in range(3)]
    assert all(sorted(epoch) == list(range(N)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 3


def test_a_sample_is_a_function_of_seed_and_position() -> None:
    first, second = toy_stream(4), toy_stream(4)
    positions = [0, 5, N, 7 * N + 3]
    before = [first[p] for p in positions]
    assert all(same_samples(second[p], sample) for p, sample in reversed(list(zip(positions, before, strict=True))))
    assert not all(same_samples(toy_stream(5)[p], sample) for p, sample in zip(positions, before, strict=True))


def test_the_same_image_is_augmented_anew_in_each_epoch() -> None:
    stream = Stream(ToyDataset(1, training_preset(warp=None, crop=20)), [0], 0)
    assert len({stream[p]["image"].numpy().tobytes() for p in range(6)}) == 6


def test_extra_images_join_without_labels() -> None:
    stream = Stream(ToyDataset(N), range(8), 0, extra=(8, 9, 10), extra_from=13)
    before = [stream[p] for p in range(13)]
    assert {sample["id"] for sample in before} == {f"toy-{i}" for i in range(8)}
    after = [stream[p] for p in range(13, 13 + 2 * N)]
    assert set(Counter(sample["id"] for sample in after).values()) == {2}
    for sample in after:
        joined = int(sample["id"].removeprefix("toy-")) >= 8
        assert bool((sample["mask"] == 255).all()) == joined
        assert sample["valid"].all() and sample["hidden"] > 0
    # what comes before does not depend on what joins later
    plain = Stream(ToyDataset(N), range(8), 0)
    assert all(same_samples(plain[p], sample) for p, sample in enumerate(before))


def test_without_extra_images_the_order_stays() -> None:
    plain, joined = toy_stream(), toy_stream(extra_from=4)
    assert [plain.locate(p) for p in range(40)] == [joined.locate(p) for p in range(40)]


REPEATS = [1.0, 1.3, 2.5, 1.0, 3.0, 1.0, 1.7, 1.0, 1.0, 1.0, 1.2]


def test_repeated_images_come_as_often_as_their_factors_say() -> None:
    stream = toy_stream(repeats=REPEATS)
    length = len(stream)
    assert length == math.ceil(sum(REPEATS))
    epochs = [Counter(stream.locate(p)[0] for p in range(e * length, (e + 1) * length)) for e in range(400)]
    scaled = np.array(REPEATS) * length / sum(REPEATS)
    for image, factor in enumerate(scaled):
        counts = [epoch[image] for epoch in epochs]
        assert set(counts) <= {math.floor(factor), math.floor(factor) + 1}
        # a mean of 400 draws that are one apart
        assert abs(np.mean(counts) - factor) < 4 * 0.5 / 400**0.5
    assert len({tuple(stream.locate(p)[0] for p in range(e * length, (e + 1) * length)) for e in range(20)}) == 20


def test_factors_of_one_change_nothing() -> None:
    plain, repeated = toy_stream(), toy_stream(repeats=[1.0] * N)
    assert [plain.locate(p) for p in range(40)] == [repeated.locate(p) for p in range(40)]


def test_with_repeats_a_position_says_all() -> None:
    options: dict[str, Any] = {"repeats": REPEATS[:8], "extra": (8, 9, 10), "extra_from": 13}
    forwards, backwards = (Stream(ToyDataset(N), range(8), 3, **options) for _ in range(2))
    found = [forwards.locate(p) for p in range(80)]
    assert [backwards.locate(p) for p in reversed(range(80))] == found[::-1]
    second = found[13 : 13 + len(forwards) + 3]
    assert sorted(image for image, labelled in second if not labelled) == [8, 9, 10]
    assert {image for image, labelled in second if labelled} == set(range(8))
    one = take(StreamLoader(forwards, 2 * B), 9)
    two = [take(StreamLoader(backwards, B, rank, 2), 9) for rank in range(2)]
    assert [b["id"] for b in one] == [[*x["id"], *y["id"]] for x, y in zip(*two, strict=True)]
    assert same_batches(take(StreamLoader(forwards, 2 * B, position=4), 5), one[4:])


def test_repeat_factors_are_those_of_the_rarest_class() -> None:
    held = np.random.default_rng(0).random((50, 6)) < [0.9, 0.5, 0.2, 0.1, 0.04, 0]
    factors = repeat_factors(held, 0.25)
    for image, classes in enumerate(held):
        shares = [held[:, c].sum() / 50 for c in np.flatnonzero(classes)]
        assert factors[image] == pytest.approx(max([1.0, *(math.sqrt(0.25 / share) for share in shares)]))
    assert (repeat_factors(held, 0) == 1).all() and factors.max() > 1.5
    # every class that is rarer than the threshold comes more often than before
    often = (factors[:, None] * held).sum(axis=0) / factors.sum()
    rare = (held.mean(axis=0) < 0.25) & held.any(axis=0)
    assert (often[rare] > held.mean(axis=0)[rare]).all() and rare.sum() == 2


def test_an_empty_pool_and_a_negative_position_are_refused() -> None:
    with pytest.raises(UserError, match="training images: found none"):
        Stream(ToyDataset(N), [], 0)
    with pytest.raises(IndexError):
        toy_stream()[-1]


def test_ranks_partition_the_positions() -> None:
    stream = toy_stream()
    ranks = [list(StreamSampler(stream, B, rank, 2)) for rank in range(2)]
    assert len(ranks[0]) == len(ranks[1]) == B * (N // (2 * B))
    assert sorted(ranks[0] + ranks[1]) == list(range(len(ranks[0]) * 2))


def test_two_ranks_see_what_one_process_with_twice_the_batch_sees() -> None:
    one = take(StreamLoader(toy_stream(), 2 * B), 5)
    two = [take(StreamLoader(toy_stream(), B, rank, 2), 5) for rank in range(2)]
    assert [b["id"] for b in one] == [[*x["id"], *y["id"]] for x, y in zip(*two, strict=True)]


def test_a_pool_smaller_than_a_batch_still_gives_batches() -> None:
    loader = StreamLoader(Stream(ToyDataset(3), range(3), 0), 4)
    assert len(loader) == 1
    ids = [name for batch in take(loader, 3) for name in batch["id"]]
    assert set(Counter(ids).values()) == {4}


def test_workers_change_nothing() -> None:
    assert same_batches(take(StreamLoader(toy_stream(), B), 8), take(StreamLoader(toy_stream(), B, num_workers=2), 8))


@pytest.mark.parametrize("workers", [0, 2])
def test_resuming_anywhere_continues_the_straight_run(workers: int) -> None:
    per_epoch = N // B
    straight = take(StreamLoader(toy_stream(), B), 2 * per_epoch + 2)
    for stop in [0, 1, per_epoch - 1, per_epoch, per_epoch + 2] if workers == 0 else [3, per_epoch]:
        loader = StreamLoader(toy_stream(), B, num_workers=workers)
        before = take(loader, stop)
        state = loader.state_dict()
        assert state == {"position": stop}
        resumed = StreamLoader(toy_stream(), B, num_workers=workers)
        resumed.load_state_dict(state)
        assert same_batches(before + take(resumed, len(straight) - stop), straight)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_pass_ends_with_its_epoch_and_the_next_goes_on(workers: int) -> None:
    loader = StreamLoader(toy_stream(), B, num_workers=workers)
    loader.load_state_dict({"position": 3})
    assert len(list(loader)) == len(loader) - 3
    assert loader.position == len(loader)
    assert len(list(loader)) == len(loader)


def test_jumping_back_with_living_workers() -> None:
    loader = StreamLoader(toy_stream(), B, num_workers=2)
    first = take(loader, 4)
    loader.load_state_dict({"position": 1})
    assert same_batches(take(loader, 3), first[1:])


def test_loading_leaves_the_global_random_state_alone() -> None:
    torch.manual_seed(0)
    before = torch.get_rng_state()
    take(StreamLoader(toy_stream(), B), 2)
    take(StreamLoader(toy_stream(), B, num_workers=2), 2)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("world_size", [1, 2, 3, 7])
def test_shards_partition_the_images_without_padding(world_size: int) -> None:
    indices = [3, 1, 4, 15, 9]
    samplers = [ShardSampler(indices, rank, world_size) for rank in range(world_size)]
    shards = [list(sampler) for sampler in samplers]
    counted = [shard for shard, sampler in zip(shards, samplers, strict=True) if sampler.counts]
    assert sorted(index for shard in counted for index in shard) == sorted(indices)
    assert [len(sampler) for sampler in samplers] == list(map(len, shards))
    assert all(shards)  # Lightning passes over an empty loader


def test_a_sample_that_nothing_counts_has_no_label_and_no_name() -> None:
    sample = UnscoredSamples(ToyDataset(3))[1]
    assert bool((sample["mask"] == 255).all()) and not bool(sample["valid"].any()) and sample["id"] == ""


def test_an_error_in_a_worker_stays_one_line() -> None:
    dataset = ToyDataset(3)
    dataset.masks[2, 0, 0] = 77
    loader = Loader(dataset, sampler=ShardSampler(range(3)), **worker_options(2))
    with pytest.raises(UserError) as caught:
        list(loader)
    expected = "toy-2: found the id 77, expected a class of toy (1-4) or an ignored id (0, 255); "
    assert str(caught.value) == expected + "correct the mask or the list of classes"
