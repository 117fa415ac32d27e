from __future__ import annotations

import pickle
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional as F

from sign_zs3.data.datamodules import FolderDataModule, ShapesDataModule
from sign_zs3.data.datasets.base import SegmentationDataset
from sign_zs3.data.datasets.features import FeatureDataset, View
from sign_zs3.data.datasets.listed import ListedDataset
from sign_zs3.data.features import FeatureCache
from sign_zs3.data.stream import LoaderPlan
from sign_zs3.data.transforms import training_preset
from sign_zs3.errors import UserError
from tests.data.conftest import FOLDER_TEST, FOLDER_TRAIN, FakeFolder, ToyDataset
from tests.data.test_datamodule import Recorder, ToyDataModule, trainer

# a machine with one core warns of two workers
pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning")

STRIDES = (4, 8, 16)


class Encode:
    """Sums over the cells of each level, with a position in each cell so that maps tell left from right."""

    def __init__(self) -> None:
        self.sizes: list[tuple[int, ...]] = []

    def __call__(self, images: Tensor) -> tuple[Tensor, ...]:
        assert images.dtype == torch.uint8 and images.shape[:2] == (1, 3)
        self.sizes.append(tuple(images.shape[2:]))
        return tuple(self.level(images.float(), stride) for stride in STRIDES)

    @staticmethod
    def level(images: Tensor, stride: int) -> Tensor:
        height, width = images.shape[2:]
        padded = F.pad(images, (0, -width % STRIDES[-1], 0, -height % STRIDES[-1]))
        slope = torch.arange(padded.shape[3]) % stride / stride
        return torch.cat([F.avg_pool2d(padded, stride), F.avg_pool2d(padded * slope, stride)[:, :1]], dim=1)


def never(images: Tensor) -> Sequence[Tensor]:
    raise AssertionError("encoded again")


def folder(fake: FakeFolder, **options: Any) -> FolderDataModule:
    small = {"warp_size": 64, "crop_size": 32, "scale": (1, 1), "batch_size": 2, "num_workers": 0, "val_fraction": 0.3}
    module = FolderDataModule(str(fake.root), ["cow", "dog"], **{**small, **options})
    module.setup("fit")
    return module


def cache(root: Path, encode: Any = never, key: str = "key") -> FeatureCache:
    return FeatureCache(root / "cache", key, encode, STRIDES)


def with_maps(module: Any, root: Path, encode: Any = None) -> Any:
    module.follow(LoaderPlan(maps=cache(root, Encode() if encode is None else encode)))
    return module


def same(first: dict[str, Any], second: dict[str, Any]) -> bool:
    """Whether two samples or batches with maps are bit-equal."""
    if first.keys() != second.keys() or len(first["maps"]) != len(second["maps"]):
        return False
    pairs = [*zip(first["maps"], second["maps"], strict=True)]
    pairs += [(first[key], second[key]) for key in ("mask", "valid", "hidden", "size")]
    return first["id"] == second["id"] and all(torch.equal(a, b) for a, b in pairs)


def features_of(module: Any) -> tuple[FeatureDataset, SegmentationDataset]:
    """The training set with maps, filled, and the one with images."""
    features = module.train_dataloader().dataset.dataset
    assert isinstance(features, FeatureDataset)
    return features, module.train_set


def test_whole_maps_are_those_of_the_ordinary_pipeline(fake_folder: FakeFolder, tmp_path: Path) -> None:
    """The same seed mirrors the same images, and draws the same labels."""
    features, plain = features_of(with_maps(folder(fake_folder, warp_size=52, crop_size=52), tmp_path))
    shown = set()
    for seed in range(12):
        mine, theirs = features.sample(1, seed), plain.sample(1, seed)
        for found, expected in zip(mine["maps"], Encode()(theirs["image"][None]), strict=True):
            assert found.dtype == torch.float16 and found.is_contiguous()
            assert torch.equal(found, expected[0].half())
        for key in ("mask", "valid", "hidden", "size"):
            assert torch.equal(mine[key], theirs[key]) and mine[key].dtype == theirs[key].dtype
        assert mine["id"] == theirs["id"] and mine.keys() == {"maps", *theirs} - {"image"}
        shown.add(theirs["image"].numpy().tobytes())
    # with both sides shown, hidden classes hidden, and a size that no stride divides
    assert len(shown) == 2 and int(mine["hidden"]) > 0
    assert [tuple(level.shape) for level in mine["maps"]] == [(4, 16, 16), (4, 8, 8), (4, 4, 4)]


def test_a_crop_of_the_maps_lies_where_the_mask_does(fake_folder: FakeFolder, tmp_path: Path) -> None:
    module = with_maps(folder(fake_folder), tmp_path)
    features, plain = features_of(module)
    sides = {False: training_preset(64, (1, 1), 64, flip=0), True: training_preset(64, (1, 1), 64, flip=1)}
    places = set()
    for seed in range(120):
        sample = features.sample(0, seed)
        assert [tuple(level.shape) for level in sample["maps"]] == [(4, 8, 8), (4, 4, 4), (4, 2, 2)]
        matches = []
        for mirrored, transform in sides.items():
            plain.transform = transform
            whole = plain.sample(0, 0)
            maps = Encode()(whole["image"][None])
            for top in (0, 16, 32):
                for left in (0, 16, 32):
                    windows = [
                        (slice(top // s, (top + 32) // s), slice(left // s, (left + 32) // s)) for s in (*STRIDES, 1)
                    ]
                    cut = [
                        level[0, :, rows, columns].half()
                        for level, (rows, columns) in zip(maps, windows[:3], strict=True)
                    ]
                    if all(torch.equal(a, b) for a, b in zip(cut, sample["maps"], strict=True)):
                        assert torch.equal(whole["mask"][windows[3]], sample["mask"])
                        matches.append((mirrored, top, left))
        assert len(matches) == 1
        places.add(matches[0])
        assert sample["valid"].shape == (32, 32) and sample["valid"].all()
        assert same(sample, features.sample(0, seed))
    assert len(places) == 18


def test_a_sample_owns_its_memory(fake_folder: FakeFolder, tmp_path: Path) -> None:
    features, _ = features_of(with_maps(folder(fake_folder), tmp_path))
    first = features.sample(0, 3, compact=True)
    assert first["mask"].dtype == torch.uint8
    kept = [level.clone() for level in first["maps"]], first["mask"].clone()
    for tensor in (*first["maps"], first["mask"]):
        tensor.zero_()
    second = features.sample(0, 3, compact=True)
    assert all(torch.equal(a, b) for a, b in zip(second["maps"], kept[0], strict=True))
    assert torch.equal(second["mask"], kept[1])


def test_evaluation_at_native_size(fake_folder: FakeFolder, tmp_path: Path) -> None:
    module = with_maps(folder(fake_folder), tmp_path)
    plain = folder(fake_folder)
    for mine, theirs in zip(module.test_dataloader(), plain.test_dataloader(), strict=True):
        for level, expected in zip(mine["maps"], Encode()(theirs["image"]), strict=True):
            assert torch.equal(level, expected.half())
        assert torch.equal(mine["mask"], theirs["mask"]) and mine["id"] == theirs["id"]
    assert mine["mask"].shape[1:] == fake_folder.masks[FOLDER_TEST[-1]].shape


def test_evaluation_at_one_size_takes_any_batch_and_a_size_has_its_own_maps(
    fake_folder: FakeFolder, tmp_path: Path
) -> None:
    encode = Encode()
    batches = {}
    for size in (None, 40, 48):
        module = with_maps(folder(fake_folder, eval_size=size, eval_batch_size=3 if size else 1), tmp_path, encode)
        before = len(encode.sizes)
        batches[size] = list(module.predict_dataloader())
        assert len(encode.sizes) - before == 3
    assert [tuple(level.shape) for level in batches[40][0]["maps"]] == [(3, 4, 12, 12), (3, 4, 6, 6), (3, 4, 3, 3)]
    assert batches[48][0]["mask"].shape == (3, 48, 48)


def test_nothing_is_computed_or_decoded_twice(
    fake_folder: FakeFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    encode = Encode()

    def batches(encode: Any) -> list[dict[str, Any]]:
        module = with_maps(folder(fake_folder), tmp_path, encode)
        loaders = (module.train_dataloader(), module.val_dataloader(), module.test_dataloader())
        return [batch for loader in loaders for batch in loader]

    first = batches(encode)
    # both sides of 5 training images at one size, and 2 + 3 to evaluate at their own
    assert encode.sizes.count((64, 64)) == 10 and len(encode.sizes) == 15
    assert "features: 5 images in" in caplog.text and "10 maps computed" in caplog.text
    monkeypatch.setattr("sign_zs3.data.datasets.listed.read_image", never)
    second = batches(never)
    assert len(first) > 5 and all(map(same, first, second))
    assert "delete what you like" in (tmp_path / "cache" / "README.txt").read_text()
    assert not list((tmp_path / "cache").rglob("*.part"))


def test_masks_are_read_once(fake_folder: FakeFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = with_maps(folder(fake_folder), tmp_path)
    first = list(module.train_dataloader())
    again = module.train_dataloader()
    monkeypatch.setattr("sign_zs3.data.datasets.listed.read_index_mask", never)
    assert all(map(same, first, again))
    features, _ = features_of(module)
    features._masks.clear()
    features._room = 0
    monkeypatch.undo()
    assert all(map(same, first, module.train_dataloader())) and not features._masks


def test_other_weights_and_changed_images_are_computed_anew(fake_folder: FakeFolder, tmp_path: Path) -> None:
    module, encode = folder(fake_folder), Encode()
    module.follow(LoaderPlan(maps=cache(tmp_path, encode)))
    module.test_dataloader()
    module.follow(LoaderPlan(maps=cache(tmp_path, encode, "other")))
    before = list(module.test_dataloader())
    assert len(encode.sizes) == 6

    changed = fake_folder.image(FOLDER_TEST[1])
    with Image.open(changed) as image:
        Image.fromarray(255 - np.asarray(image)).save(changed)
    after = list(module.test_dataloader())
    assert len(encode.sizes) == 7
    assert [same(a, b) for a, b in zip(before, after, strict=True)] == [True, False, True]
    # a copy under another name is the same image
    fake_folder.image(FOLDER_TEST[0]).write_bytes(fake_folder.image(FOLDER_TEST[2]).read_bytes())
    assert isinstance(module.test_set, ListedDataset)
    assert module.test_set.fingerprint(0) == module.test_set.fingerprint(2) != module.test_set.fingerprint(1)


@pytest.mark.parametrize("damage", ["cut", "empty", "longer", "noise", "one level"])
def test_a_broken_file_is_computed_anew(fake_folder: FakeFolder, tmp_path: Path, damage: str) -> None:
    module, encode = folder(fake_folder), Encode()
    module.follow(LoaderPlan(maps=cache(tmp_path, encode)))
    before = list(module.test_dataloader())
    loader = module.test_dataloader()
    broken = min((tmp_path / "cache" / "key").iterdir())
    content = broken.read_bytes()
    if damage == "one level":
        save_file({"0": load_file(broken)["0"]}, broken)
    else:
        broken.write_bytes(
            {"cut": content[:-9], "empty": b"", "longer": content + b"\0", "noise": bytes(len(content))}[damage]
        )
    with pytest.raises(UserError, match=r"feature_cache: .*\.safetensors cannot be read \(.*start again") as caught:
        list(loader)
    assert "\n" not in str(caught.value)
    assert all(map(same, before, module.test_dataloader()))
    assert len(encode.sizes) == 4 and broken.read_bytes() == content


def test_two_workers_give_what_none_gives_and_resume(fake_folder: FakeFolder, tmp_path: Path) -> None:
    expected: list[dict[str, Any]] = []
    loader = with_maps(folder(fake_folder), tmp_path).train_dataloader()
    while len(expected) < 7:
        expected += list(loader)
    module = with_maps(folder(fake_folder, num_workers=2), tmp_path, never)
    loader = module.train_dataloader()
    found = [batch for _ in range(2) for batch in loader]
    assert len(found) == 4 and all(map(same, found, expected))
    resumed = module.train_dataloader()
    resumed.load_state_dict(loader.state_dict())
    batches = list(resumed)
    assert all(map(same, batches, expected[4:])) and len(batches) == 2
    assert [type(level) for level in batches[0]["maps"]] == [Tensor] * 3
    assert [tuple(level.shape) for level in batches[0]["maps"]] == [(2, 4, 8, 8), (2, 4, 4, 4), (2, 4, 2, 2)]
    assert batches[0]["maps"][0].dtype == torch.float16


def test_each_rank_computes_its_share(fake_folder: FakeFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before the exchange a rank has encoded every second image; what then still is missing it computes itself."""
    encode = Encode()
    counts: list[int] = []
    module = with_maps(folder(fake_folder), tmp_path, encode)
    module.trainer = SimpleNamespace(lightning_module=None, global_rank=1, world_size=2)

    def gather(shares: list[Any], share: Any) -> None:
        counts.append(len(encode.sizes))
        shares[:] = [share, share]

    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "all_gather_object", gather)
    module.train_dataloader()
    assert counts == [4] and len(encode.sizes) == 10
    module.test_dataloader()
    assert counts == [4, 11] and len(encode.sizes) == 11

    def fail(shares: list[Any], share: Any) -> None:
        shares[:] = [UserError("the other: broken"), share]

    monkeypatch.setattr(torch.distributed, "all_gather_object", fail)
    with pytest.raises(UserError, match="the other: broken"):
        module.test_dataloader()


def test_a_trainer_moves_maps_and_goes_back_to_images(fake_folder: FakeFolder, tmp_path: Path) -> None:
    module, recorder = with_maps(folder(fake_folder), tmp_path), Recorder()
    trainer(tmp_path, 3).fit(recorder, module)
    assert len(recorder.seen) == 3 and len(set(recorder.evaluated)) == 2
    assert all(len(batch["maps"]) == 3 and batch["mask"].dtype == torch.int64 for batch in recorder.seen)
    module.follow(LoaderPlan())
    assert next(iter(module.test_dataloader()))["image"].dtype == torch.uint8


def test_dropped_images_join_with_maps(fake_folder: FakeFolder, tmp_path: Path) -> None:
    encode = Encode()
    module = with_maps(folder(fake_folder, unseen_pixels="drop", val_fraction=0.0, batch_size=1), tmp_path, encode)
    assert len(module.dropped_indices) == 2
    module.train_dataloader()
    assert len(encode.sizes) == 10
    module.follow(replace(module.plan, unlabelled_from=0))
    loader = module.train_dataloader()
    assert len(encode.sizes) == 14
    batches = [batch for _ in range(2) for batch in loader][: len(FOLDER_TRAIN)]
    assert {batch["id"][0] for batch in batches} == set(FOLDER_TRAIN)
    assert sum(bool((batch["mask"] == 255).all()) for batch in batches) == 2


def test_scenes_are_encoded_whole(tmp_path: Path) -> None:
    module = ShapesDataModule(train_size=3, val_size=2, test_size=2, scene_size=32, batch_size=2, eval_batch_size=2)
    module.setup("fit")
    encode = Encode()
    with_maps(module, tmp_path, encode)
    batch = next(iter(module.train_dataloader()))
    assert [tuple(level.shape) for level in batch["maps"]] == [(2, 4, 8, 8), (2, 4, 4, 4), (2, 4, 2, 2)]
    assert len(encode.sizes) == 6 and len(list(module.test_dataloader())) == 1 and len(encode.sizes) == 8
    features, plain = features_of(module)
    image, _ = plain.read(1)
    sides = [Encode()(torch.from_numpy(image[None].transpose(0, 3, 1, 2).copy())) for image in (image, image[:, ::-1])]
    seen = set()
    for seed in range(8):
        (side,) = [n for n in (0, 1) if torch.equal(features.sample(1, seed)["maps"][0], sides[n][0][0].half())]
        seen.add(side)
    assert seen == {0, 1}


def test_a_copy_for_another_process_reads_but_does_not_encode(tmp_path: Path) -> None:
    dataset = ToyDataset(3)
    features = FeatureDataset(dataset, cache(tmp_path, lambda images: Encode()(images)), View(flip=0.5))
    features.fill(range(3))
    copy = pickle.loads(pickle.dumps(features))
    assert same(copy.sample(2, 5), features.sample(2, 5))
    assert len(copy) == 3 and copy.dataset.protocol == dataset.protocol
    (tmp_path / "cache" / "key" / f"{dataset.fingerprint(0)}-native.safetensors").unlink()
    with pytest.raises(RuntimeError, match="a copy of a cache cannot encode"):
        copy.fill([0])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"warp_size": None}, "warp_size: found null with feature_cache"),
        ({"scale": (0.5, 1.5)}, r"scale: found \[0\.5, 1\.5\] with feature_cache, expected \[1, 1\]"),
        ({"crop_size": 40}, "crop_size: found 40 with feature_cache, expected a multiple of 16"),
    ],
)
def test_options_that_maps_cannot_follow(
    fake_folder: FakeFolder, tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    module = folder(fake_folder, **options)
    with pytest.raises(UserError, match=message) as caught:
        with_maps(module, tmp_path)
    assert "\n" not in str(caught.value) and "leave feature_cache out" in str(caught.value)


def test_augmentations_are_refused(fake_folder: FakeFolder, tmp_path: Path) -> None:
    module = folder(fake_folder)
    module.augmentations = "some.yaml"
    with pytest.raises(UserError, match=r"augmentations: found some\.yaml with feature_cache, expected none"):
        with_maps(module, tmp_path)


def test_options_of_training_do_not_matter_to_a_test(fake_folder: FakeFolder, tmp_path: Path) -> None:
    module = FolderDataModule(str(fake_folder.root), ["cow", "dog"], num_workers=0)
    module.setup("test")
    assert len(list(with_maps(module, tmp_path).test_dataloader())) == 3


def test_a_transform_that_nobody_described_is_refused(tmp_path: Path) -> None:
    module = ToyDataModule()
    module.setup("fit")
    with pytest.raises(UserError, match="feature_cache: found ToyDataModule, whose transform changes images"):
        with_maps(module, tmp_path)

    class Plain(ToyDataModule):
        def make_dataset(
            self, split: Literal["train", "val", "test"], *, hide_unseen: bool, augment: bool
        ) -> SegmentationDataset:
            return ToyDataset(4, None, hide_unseen)

    plain, encode = Plain(batch_size=2), Encode()
    plain.setup("fit")
    with_maps(plain, tmp_path, encode).train_dataloader()
    # never mirrored
    assert len(encode.sizes) == 3


@pytest.mark.parametrize("value", [1e6, float("nan")])
def test_values_beyond_16_bits_are_refused(fake_folder: FakeFolder, tmp_path: Path, value: float) -> None:
    def encode(images: Tensor) -> list[Tensor]:
        return [level + value for level in Encode()(images)]

    module = with_maps(folder(fake_folder), tmp_path, encode)
    with pytest.raises(UserError, match=r"feature_cache: found .* at stride 4, expected none above 65504") as caught:
        module.train_dataloader()
    assert "\n" not in str(caught.value) and not (tmp_path / "cache").exists()


def test_a_cache_that_cannot_be_written_or_made(fake_folder: FakeFolder, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file")
    with pytest.raises(UserError, match=r"feature_cache: .* cannot be written \(.*name another folder"):
        with_maps(folder(fake_folder), tmp_path).test_dataloader()
    for strides in ((), (16, 8), (3, 8), (0, 8)):
        with pytest.raises(ValueError, match="expected them fine to coarse"):
            FeatureCache(tmp_path, "key", never, strides)
    wrong = FeatureCache(tmp_path, "key", lambda images: [torch.zeros(1, 2, 3, 3)], (8,))
    with pytest.raises(ValueError, match=r"encode gave \(1, 2, 3, 3\) at stride 8"):
        wrong.write("name", np.zeros((3, 16, 16), np.uint8))


def test_a_missing_image_is_named(fake_folder: FakeFolder, tmp_path: Path) -> None:
    module = folder(fake_folder)
    fake_folder.image(FOLDER_TEST[1]).unlink()
    with pytest.raises(UserError, match=rf"{FOLDER_TEST[1]}\.jpg: not found, expected an image"):
        with_maps(module, tmp_path).test_dataloader()


def test_maps_of_another_size_are_not_read(tmp_path: Path) -> None:
    store = cache(tmp_path, Encode())
    store.write("name", np.zeros((3, 32, 48), np.uint8))
    assert store.holds("name") and store.read("name", (30, 47))[2].shape == (4, 2, 3)
    with pytest.raises(UserError, match=r"found maps of \(8, 12\) at stride 4, not \(12, 8\)"):
        store.read("name", (48, 32))
