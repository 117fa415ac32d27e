from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from sign_zs3 import ClassTable, SIGNModule, UserError, ZeroShotTask, load_segmenter, load_task
from sign_zs3.cli import main
from sign_zs3.data.datasets.shapes import NAMES
from sign_zs3.functional import pixel_cross_entropy
from sign_zs3.models.classifier import Classifier
from sign_zs3.tasks import METHODS, GenerativeTask
from sign_zs3.vocabulary import extend, remove, rename, save_model, self_train
from sign_zs3.vocabulary.teaching import MAX_TAKEN, Features, Pool
from tests.conftest import TINY, quiet_trainer, tiny_data, tiny_model

NEW = ["orange circle", "purple sea"]
CLASSES = tuple(NAMES.values())


def trained(folder: Path, method: str = "SIGN", **options: Any) -> ZeroShotTask:
    known = METHODS[method].defaults()
    chosen = {key: value for key, value in (TINY | {"center_vectors": True} | options).items() if key in known}
    model = METHODS[method](**chosen)
    quiet_trainer(folder).fit(model, tiny_data())
    return model.eval()


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("trained")
    save_model(trained(folder), folder / "sign.ckpt")
    return str(folder / "sign.ckpt")


def generator(model: ZeroShotTask) -> torch.nn.Module:
    assert isinstance(model, GenerativeTask)
    return model.generator


def projection(model: ZeroShotTask) -> torch.nn.Conv2d:
    assert isinstance(model.segmenter.classifier, Classifier)
    return model.segmenter.classifier.projection


def test_a_saved_model_is_the_model(checkpoint: str) -> None:
    model = load_task(checkpoint)
    assert not model.training
    with pytest.raises(RuntimeError):
        projection(model).weight.add_(1)  # a leaf that still wants a gradient, as after training
    again = load_task(checkpoint)
    image = torch.randint(0, 256, (3, 32, 32), dtype=torch.uint8)
    assert torch.equal(model.segmenter.predict(image), load_segmenter(checkpoint).predict(image))
    assert model.protocol == again.protocol
    assert not any(key.startswith("teacher.") for key in torch.load(checkpoint, weights_only=True)["state_dict"])


@pytest.mark.parametrize("with_data", [False, True])
def test_new_classes_leave_old_rows_alone(checkpoint: str, with_data: bool) -> None:
    old = load_task(checkpoint)
    before = {key: value.clone() for key, value in old.state_dict().items()}
    new = extend(old, NEW, data=tiny_data() if with_data else None)
    assert all(torch.equal(value, before[key]) for key, value in old.state_dict().items())
    assert old.protocol is not None and new.protocol is not None
    assert new.protocol.classes == (*old.protocol.classes, *NEW)
    assert new.protocol.ids == (*old.protocol.ids, 23, 24)
    assert new.protocol.num_seen == old.protocol.num_seen
    assert new.segmenter.config is not None
    assert new.segmenter.config.protocol.classes == new.protocol.classes
    assert bool(new.segmenter.known.all())
    assert torch.equal(projection(new).weight[:22], projection(old).weight)
    assert projection(new).bias is not None and bool(projection(new).weight[22:].abs().sum((1, 2, 3)).gt(0).all())
    shared = {k: v for k, v in new.state_dict().items() if "classifier" not in k and k != "class_vectors"}
    assert all(torch.equal(value, before[key]) for key, value in shared.items() if not key.endswith("known"))
    # the new vectors are those that the classes would have among the old ones' mean
    reference = ClassTable.bundled().vectors([*old.protocol.classes, *NEW], center=True, center_on=old.protocol.classes)
    torch.testing.assert_close(new.class_vectors, reference)
    # features that the generator makes of a new class are likelier to be taken for it than before
    with torch.no_grad():
        vectors = new.class_vectors[22:23].t()[None, :, :, None].expand(-1, -1, 500, -1)
        logits = new.segmenter.classifier(new.generator(vectors, torch.randn(1, 16, 500, 1)))  # type: ignore[operator]
        untaught = logits.clone()
        untaught[:, 22:] = 0
        assert logits.log_softmax(1)[:, 22].mean() > untaught.log_softmax(1)[:, 22].mean()


def test_extension_is_a_function_of_its_seed(checkpoint: str) -> None:
    torch.manual_seed(5)
    one = extend(checkpoint, NEW[:1])
    torch.manual_seed(6)
    with torch.inference_mode():  # nor of whether gradients are switched off
        two = extend(checkpoint, NEW[:1])
    other = extend(checkpoint, NEW[:1], seed=1)
    assert torch.equal(projection(one).weight, projection(two).weight)
    assert not torch.equal(projection(one).weight, projection(other).weight)


def test_classes_of_the_data_take_their_ids_and_order(tmp_path: Path) -> None:
    left_out = ["blue square", "purple triangle"]
    model = trained_without(tmp_path, left_out)
    data = tiny_data(unseen=["red square", "green triangle", "blue star", "yellow circle", *left_out])
    new = extend(model, left_out, data=data)
    assert new.protocol is not None
    assert new.protocol.classes == data.protocol.classes
    assert new.protocol.ids == data.protocol.ids
    # so that the extended model is tested on data with these classes
    quiet_trainer(tmp_path).test(new, data, verbose=False)
    assert set(left_out) <= set(new.scores["per_class"])
    with pytest.raises(UserError, match="data: found 21 seen classes of shapes, expected the 16 of the model"):
        extend(model, ["orange circle"], data=tiny_data(unseen=["red square"]))


def test_classes_taught_without_the_data_are_tested_on_them(tmp_path: Path) -> None:
    left_out = ["blue square", "purple triangle"]
    model = trained_without(tmp_path, left_out)
    data = tiny_data(unseen=["red square", "green triangle", "blue star", "yellow circle", *left_out])
    new = extend(model, left_out[::-1])
    save_model(new, tmp_path / "new.ckpt")
    assert new.protocol is not None and new.segmenter.config is not None
    assert set(new.protocol.classes) == set(data.protocol.classes)
    assert new.protocol.classes != data.protocol.classes
    image = torch.randint(0, 256, (3, 32, 32), dtype=torch.uint8)
    names = {new.protocol.classes[number] for number in torch.unique(new.segmenter.predict(image)).tolist()}

    quiet_trainer(tmp_path).test(new, data, verbose=False)
    assert new.protocol == data.protocol
    assert (new.segmenter.config.protocol.classes, new.segmenter.config.protocol.ids) == (
        data.protocol.classes,
        data.protocol.ids,
    )
    assert {new.protocol.classes[number] for number in torch.unique(new.segmenter.predict(image)).tolist()} == names
    in_memory = new.scores["per_class"]
    assert set(left_out) <= set(in_memory)
    options = TINY | {"center_vectors": model.hparams["center_vectors"]}
    from_file = SIGNModule(**options)
    quiet_trainer(tmp_path).test(from_file, data, ckpt_path=str(tmp_path / "new.ckpt"), verbose=False)
    started = SIGNModule(**(options | {"init_from": str(tmp_path / "new.ckpt")}))
    quiet_trainer(tmp_path).test(started, data, verbose=False)
    assert repr(in_memory) == repr(from_file.scores["per_class"]) == repr(started.scores["per_class"])  # NaN is NaN

    # other classes, and other seen ones, are no order of the same classes
    for other in (tiny_data(), tiny_data(unseen=left_out)):
        with pytest.raises(UserError, match="use the data and split"):
            quiet_trainer(tmp_path).test(load_task(tmp_path / "new.ckpt"), other, verbose=False)


def test_a_training_in_another_order_is_not_taken_up(tmp_path: Path) -> None:
    unseen = ["red square", "green triangle", "blue star", "yellow circle"]
    model = SIGNModule(**TINY)
    trainer = quiet_trainer(tmp_path)
    trainer.fit(model, tiny_data(unseen=unseen))
    trainer.save_checkpoint(tmp_path / "run.ckpt")
    checkpoint = torch.load(tmp_path / "run.ckpt", weights_only=True)
    protocol = checkpoint["sign_zs3"]["protocol"]
    protocol["classes"][:2], protocol["ids"][:2] = protocol["classes"][1::-1], protocol["ids"][1::-1]
    torch.save(checkpoint, tmp_path / "run.ckpt")
    with pytest.raises(UserError, match="classes"):
        quiet_trainer(tmp_path).fit(SIGNModule(**TINY), tiny_data(unseen=unseen), ckpt_path=str(tmp_path / "run.ckpt"))


def trained_without(folder: Path, names: list[str]) -> ZeroShotTask:
    model = SIGNModule(**TINY)
    quiet_trainer(folder).fit(model, tiny_data(ignored_classes=names))
    return model.eval()


def test_rename_and_remove_touch_what_they_name_alone(checkpoint: str) -> None:
    old = load_task(checkpoint)
    assert old.protocol is not None
    image = torch.randint(0, 256, (3, 32, 32), dtype=torch.uint8)
    renamed = rename(old, {"sky": "heaven", "red square": "crimson box"})
    assert renamed.protocol is not None
    assert set(renamed.protocol.classes) - set(old.protocol.classes) == {"heaven", "crimson box"}
    assert renamed.protocol.ids == old.protocol.ids
    assert torch.equal(renamed.segmenter.predict(image), old.segmenter.predict(image))
    assert torch.equal(renamed.class_vectors, old.class_vectors)
    # a renamed class keeps the vector of its old name, so that it can still be told whether a table is the right one
    longer = extend(renamed, NEW[:1])
    torch.testing.assert_close(longer.class_vectors, extend(old, NEW[:1]).class_vectors)

    fewer = remove(old, ["sky", "blue star"])
    assert fewer.protocol is not None
    kept = [old.protocol.classes.index(name) for name in fewer.protocol.classes]
    assert (fewer.protocol.num_seen, fewer.protocol.num_classes) == (17, 20)
    assert {21, 12} <= set(fewer.protocol.ignored_ids)
    batch = image[None]
    with torch.no_grad():
        torch.testing.assert_close(fewer.segmenter(batch), old.segmenter(batch)[:, kept], rtol=0, atol=0)
    with pytest.raises(UserError, match="remove: found all 18 seen classes"):
        remove(old, old.protocol.classes[:18])
    with pytest.raises(UserError, match=r"found 'sy', expected one of .*did you mean 'sky'"):
        rename(old, {"sy": "heaven"})
    with pytest.raises(UserError, match="found 'sea', which the model has already"):
        rename(old, {"sky": "sea"})
    with pytest.raises(UserError, match="found 'Sea', which the model has already as 'sea'"):
        rename(old, {"sky": " Sea"})
    swapped = rename(old, {"sky": "sea", "sea": "sky"}).protocol
    assert swapped is not None and swapped.classes.index("sky") == old.protocol.classes.index("sea")
    spaced = rename(old, {"sky": " dark\n sky "}).protocol
    assert spaced is not None and "dark sky" in spaced.classes


def test_spnet_needs_no_training_for_a_new_class(tmp_path: Path) -> None:
    old = trained(tmp_path, "SPNet")
    new = extend(old, NEW)
    batch = torch.randint(0, 256, (1, 3, 32, 32), dtype=torch.uint8)
    with torch.no_grad():
        logits = new.segmenter(batch)
        assert torch.equal(logits[:, :22], old.segmenter(batch))
        features = new.segmenter.features(batch, sample=False).features
        torch.testing.assert_close(logits[0, 22], torch.einsum("dhw,d->hw", features[0], new.class_vectors[22]))


@pytest.mark.parametrize("method", ["ZS3", "CaGNet"])
def test_every_generator_teaches(method: str, tmp_path: Path) -> None:
    new = extend(trained(tmp_path, method), NEW)
    assert bool(new.segmenter.known.all())
    assert new.segmenter.predict(torch.zeros(3, 32, 32, dtype=torch.uint8)).shape == (32, 32)


def test_a_generator_that_was_never_trained_says_what_is_left(tmp_path: Path) -> None:
    model = trained(tmp_path, phases=["train"], joint_generator=False)
    with pytest.raises(UserError, match=r"never trained: it can predict, be exported, and have classes renamed or rem"):
        extend(model, NEW)
    # taking out the classes that C was not taught makes no generator
    with pytest.raises(UserError, match="never trained"):
        extend(remove(model, model.protocol.classes[18:]), NEW)
    # nor does teaching C by it
    with pytest.raises(UserError, match="never trained"):
        extend(trained(tmp_path, phases=["train", "transfer"], joint_generator=False), NEW)
    # it is known of what a run started from, too
    save_model(trained(tmp_path, phases=["train"]), tmp_path / "joint.ckpt")
    later = trained(tmp_path, phases=["transfer"], init_from=str(tmp_path / "joint.ckpt"), joint_generator=False)
    save_model(later, tmp_path / "later.ckpt")
    assert bool(extend(tmp_path / "later.ckpt", NEW).segmenter.known.all())
    joint = extend(trained(tmp_path, phases=["train"]), NEW)
    assert bool(joint.segmenter.known.all())  # the old unseen classes were taught, too


def test_what_cannot_be_extended_is_named(checkpoint: str, tmp_path: Path) -> None:
    for classes, message in (
        (["zebr"], r"no vector for 1 of .*zebr"),
        (["sky"], "found 'sky', which the model has already"),
        (["Sky"], "found 'Sky', which the model has already as 'sky'"),
        (["zebra", "red_square"], "found 'red_square', which the model has already as 'red square'"),
        (["zebra", "zebra"], "found 'zebra', which is given twice"),
        (["zebra", "ZEBRA"], "found 'ZEBRA', which is given twice as 'zebra'"),
        ("zebra", "found the text 'zebra', expected a list of names"),
        (["zebra", " "], "found an empty name"),
    ):
        with pytest.raises(UserError, match=message):
            extend(checkpoint, classes)
    for options, message in (
        ({"images": 0}, "images: found 0, expected at least 1"),
        ({"odds": 0.0}, "odds: found 0.0, expected a number above 0"),
        ({"odds": float("nan")}, "odds: found nan"),
        ({"vectors": "none.npz"}, "vectors: none.npz is not there, expected the table .* --vectors, or .* --source"),
        ({"vectors": ClassTable(("zebra",), {"x": np.ones((1, 3), np.float32)})}, "found no class of the model"),
        (
            {"vectors": ClassTable(("zebra", *CLASSES), {"x": np.eye(23, dtype=np.float32)})},
            "found 23 numbers per class",
        ),
    ):
        with pytest.raises(UserError, match=message):
            extend(checkpoint, ["zebra"], **options)
    with pytest.raises(UserError, match=r"zebr.* here by --vectors, or word vectors by --source"):
        extend(checkpoint, ["zebr"])
    table = ClassTable.bundled()
    moved = ClassTable(table.names, {key: matrix[::-1] for key, matrix in table.sources.items()})
    with pytest.raises(UserError, match=r"vectors: found another vector for 'red circle'"):
        extend(checkpoint, ["zebra"], vectors=moved)
    with pytest.raises(UserError, match="found one without classes"):
        rename(tiny_model(), {})


def test_self_training_on_images_without_masks(checkpoint: str, tmp_path: Path) -> None:
    for number in range(3):
        array = np.random.default_rng(number).integers(0, 256, (40, 30, 3), dtype=np.uint8)
        Image.fromarray(array).save(tmp_path / f"{number}.png")
    old = extend(checkpoint, NEW[:1])
    new = self_train(old, [tmp_path], iterations=2, batch_size=2, accelerator="cpu")
    assert new.protocol == old.protocol
    assert new.hparams == old.hparams
    assert not torch.equal(projection(new).weight, projection(old).weight)
    assert all(torch.equal(a, b) for a, b in zip(generator(new).parameters(), generator(old).parameters(), strict=True))
    save_model(new, tmp_path / "new.ckpt")
    assert load_task(tmp_path / "new.ckpt").protocol == old.protocol
    with pytest.raises(UserError, match=r"nothing is not there, or in a closed folder, expected an image"):
        self_train(old, [tmp_path / "nothing"])
    with pytest.raises(UserError, match="iterations: found 0"):
        self_train(old, [tmp_path], iterations=0)


def test_the_verbs(checkpoint: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def run(*args: str) -> tuple[int, str]:
        code = main([*args])
        captured = capsys.readouterr()
        return code, captured.out + captured.err

    for number in range(2):
        Image.new("RGB", (32, 32), (number, 9, 200)).save(tmp_path / f"{number}.png")
    first, second, third = (str(tmp_path / f"{name}.ckpt") for name in ("first", "second", "third"))
    code, out = run("extend", "--ckpt_path", checkpoint, "--classes", "zebra,giraffe", "--output", first)
    assert code == 0, out
    assert "giraffe" in out and first in out
    assert run("rename", "--ckpt_path", first, "--classes", "zebra=horse", "--output", second)[0] == 0
    assert run("remove", "--ckpt_path", second, "--classes", "sky,giraffe", "--output", third)[0] == 0
    protocol = load_task(third).protocol
    assert protocol is not None
    assert protocol.classes[-1] == "horse"
    assert not {"sky", "giraffe", "zebra"} & set(protocol.classes)
    images = ["--images", str(tmp_path / "0.png"), str(tmp_path / "1.png"), "--self_training_iterations", "1"]
    code, out = run("extend", "--ckpt_path", third, "--classes", "sky", "--output", second, "--overwrite", *images)
    assert code == 0, out

    (tmp_path / "no.ckpt").write_bytes(b"no checkpoint")
    new = str(tmp_path / "new.ckpt")
    zebra = ["--ckpt_path", checkpoint, "--classes", "zebra", "--output"]
    for verb, options, message in (
        ("extend", [*zebra, first], "exists, expected a new file"),
        ("extend", [*zebra, "x.pt"], "name that ends in .ckpt"),
        ("extend", ["--ckpt_path", str(tmp_path / "no.ckpt"), "--classes", "zebra", "--output", new], "no checkpoint"),
        ("extend", [*zebra, new, "--vectors", "a", "--source", "b"], "--vectors: found beside --source"),
        ("rename", ["--ckpt_path", checkpoint, "--classes", "sky", "--output", new], "expected OLD=NEW"),
        ("rename", ["--ckpt_path", checkpoint, "--classes", "sky=a,sky=b", "--output", new], "found 'sky' twice"),
        ("remove", ["--ckpt_path", checkpoint, "--classes", "moon", "--output", new], "found 'moon', expected one of"),
        ("extend", [*zebra, new, "--images", str(tmp_path / "none")], "none is not there, or in a closed folder"),
    ):  # fmt: skip
        code, out = run(verb, *options)
        assert code == 1, out
        assert message in out and len(out.strip().splitlines()) == 1, out
    for wrong in (["--what"], ["--self_training_iterations", "0"]):
        with pytest.raises(SystemExit) as stopped:
            run("extend", *zebra, new, *wrong)
        assert stopped.value.code == 2
    assert not Path(new).exists()


def word_vectors(folder: Path, left_out: str = "") -> list[str]:
    """The bundled table as GloVe's files, as far as the class names need it."""
    table = ClassTable.bundled()
    words = sorted({word for name in [*CLASSES, *NEW] for word in name.split()} - {left_out})
    options = []
    for source, matrix in table.sources.items():
        rows = [" ".join([word, *map(str, matrix[table.names.index(word)].tolist())]) for word in words]
        (folder / f"{source}.txt").write_text("\n".join(rows) + "\n")
        options += ["--source", f"{source}={folder / source}.txt"]
    return options


def test_extend_from_word_vectors(checkpoint: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["extend", "--ckpt_path", checkpoint, "--classes", NEW[0], "--output"]
    by_table, by_words = tmp_path / "table.ckpt", tmp_path / "words.ckpt"
    assert main([*arguments, str(by_table)]) == 0
    assert main([*arguments, str(by_words), *word_vectors(tmp_path)]) == 0
    expected, found = (torch.load(path, weights_only=True)["state_dict"] for path in (by_table, by_words))
    for key, value in expected.items():
        torch.testing.assert_close(found[key], value)
    capsys.readouterr()
    assert main([*arguments, str(tmp_path / "new.ckpt"), *word_vectors(tmp_path, left_out="triangle")]) == 1
    error = capsys.readouterr().err
    assert "'green triangle'" in error and "; give the files that the table of the training was built from" in error
    assert not (tmp_path / "new.ckpt").exists()


def test_extend_beside_data(checkpoint: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    names = ["--ckpt_path", checkpoint, "--classes", NEW[0], "--output", str(tmp_path / "new.ckpt")]
    sizes = {"train_size": 4, "val_size": 2, "test_size": 2, "scene_size": 32}
    data = [text for key, value in sizes.items() for text in (f"--data.{key}", str(value))]
    assert main(["extend", *names, "--data", "ShapesDataModule", *data]) == 0
    assert f"taught: {NEW[0]}, from real and synthetic ones" in caplog.messages
    protocol = load_task(tmp_path / "new.ckpt").protocol
    assert protocol is not None and protocol.classes[-1] == NEW[0]


def test_an_extended_checkpoint_starts_a_run(checkpoint: str, tmp_path: Path) -> None:
    left_out = ["purple star"]
    old = trained_without(tmp_path, left_out)
    data = tiny_data(unseen=["red square", "green triangle", "blue star", "yellow circle", *left_out])
    save_model(extend(old, left_out, data=data), tmp_path / "new.ckpt")
    model = SIGNModule(**(TINY | {"phases": ["self_training"], "init_from": str(tmp_path / "new.ckpt")}))
    quiet_trainer(tmp_path).fit(model, data)
    assert model.schedule.done
    # there is no training in it to take up
    with pytest.raises(UserError, match=r"start from it with --model\.init_from"):
        quiet_trainer(tmp_path).fit(SIGNModule(**TINY), data, ckpt_path=str(tmp_path / "new.ckpt"))


def test_classes_of_another_table_stay_with_the_checkpoint(tmp_path: Path) -> None:
    """A table of the data set's own names; a new class comes from a second, and the next one from a third."""
    bundled = ClassTable.bundled()

    def table(*names: str) -> ClassTable:
        sources = {"x": bundled.vectors([*CLASSES, *names]).numpy()}
        return ClassTable((*CLASSES, *names), sources)

    table().save(tmp_path / "own.npz")
    options = {"vectors": str(tmp_path / "own.npz")}
    model = trained(tmp_path, center_vectors=False, **options)
    first = extend(model, ["zebra"], vectors=table("zebra"))
    second = extend(first, ["giraffe"], vectors=table("giraffe"))
    reference = bundled.vectors([*CLASSES, "zebra", "giraffe"])
    assert second.protocol is not None
    order = [[*CLASSES, "zebra", "giraffe"].index(name) for name in second.protocol.classes]
    torch.testing.assert_close(second.class_vectors, reference[order])
    # a run that starts from it takes the vectors from it, too
    removed = ["purple star"]
    short = SIGNModule(**(TINY | options))
    quiet_trainer(tmp_path).fit(short, tiny_data(ignored_classes=removed))
    ids = [name for name in CLASSES if name not in removed]
    ClassTable(tuple(ids), {"x": bundled.vectors(ids).numpy()}).save(tmp_path / "own.npz")
    save_model(extend(short, removed, vectors=table()), tmp_path / "more.ckpt")
    data = tiny_data(unseen=["red square", "green triangle", "blue star", "yellow circle", *removed])
    later = SIGNModule(**(TINY | options | {"phases": ["self_training"], "init_from": str(tmp_path / "more.ckpt")}))
    quiet_trainer(tmp_path).fit(later, data)
    assert later.schedule.done


def test_new_classes_take_a_bounded_share_of_the_features_of_old_ones() -> None:
    torch.manual_seed(0)
    weight, bias, new = torch.randn(6, 4), torch.randn(6), [2, 5]

    def pool(count: int, classes: list[int]) -> Pool:
        labels = torch.tensor(classes).repeat_interleave(count)
        return Pool.of(Features(torch.randn(len(labels), 4), labels), weight, bias, new)

    def taken(pool: Pool, lowered: Tensor) -> float:
        """By the classifier as a whole: the share of each old class's features that goes to a new one, averaged."""
        (rows, labels), old = pool.features, (0, 1, 3, 4)
        lost = torch.isin((rows @ weight.t() + lowered).argmax(1), torch.tensor(new)).float()
        return float(torch.stack([lost[labels == c].mean() for c in old if c in labels]).mean())

    pools = [pool(1500, [0, 1, 2, 3, 4, 5]), pool(2000, [0, 3])]
    for raised in (3.0, 100.0):
        bias[new] += raised
        assert min(taken(pool, bias) for pool in pools) > 0.5
        too_high = max(float(pool.excess(weight[new], bias[new])) for pool in pools)
        shares = [
            taken(pool, bias.index_add(0, torch.tensor(new), torch.full((2,), -too_high - 1e-4))) for pool in pools
        ]
        assert max(shares) <= MAX_TAKEN
        # and no less than that
        assert max(shares) > MAX_TAKEN - 0.002
    # they are not raised where they take less
    bias[new] = -100.0
    assert all(float(pool.excess(weight[new], bias[new])) == 0 for pool in pools)


def test_a_pool_has_the_gradient_of_the_cross_entropy_over_all_classes() -> None:
    torch.manual_seed(0)
    features = Features(torch.randn(50, 4), torch.randint(0, 6, (50,)))
    weight, bias, new = torch.randn(6, 4, requires_grad=True), torch.randn(6, requires_grad=True), [2, 5]
    pool = Pool.of(features, weight.detach(), bias.detach(), new)
    drawn = torch.randint(0, 50, (20,))
    logits = torch.nn.functional.linear(features.rows[drawn], weight, bias)
    whole = torch.nn.functional.cross_entropy(logits, features.labels[drawn])
    expected = torch.autograd.grad(whole, (weight, bias))
    new_rows = [values.detach()[new].requires_grad_() for values in (weight, bias)]
    found = torch.autograd.grad(pixel_cross_entropy(*pool.logits_and_labels(drawn, *new_rows)), new_rows)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other[new])


class RunsCode:
    """Pickled, it makes a file when it is loaded."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def test_a_file_with_code_is_refused_and_its_code_not_run(tmp_path: Path) -> None:
    harm = tmp_path / "harm"
    pickled = {"sign_zs3": {"format": 1}, "state_dict": RunsCode(harm)}
    torch.save(pickled, tmp_path / "archive.ckpt")
    (tmp_path / "bare.ckpt").write_bytes(pickle.dumps(pickled))
    for name, message in (("archive", "code in files is never run"), ("bare", "no checkpoint")):
        with pytest.raises(UserError, match=message) as caught:
            load_task(tmp_path / f"{name}.ckpt")
        assert "weights_only" not in str(caught.value)
    assert not harm.exists()
    torch.load(tmp_path / "archive.ckpt", weights_only=False)
    assert harm.exists()


def test_a_checkpoint_of_another_version_is_told_apart(checkpoint: str, tmp_path: Path) -> None:
    whole = torch.load(checkpoint, weights_only=True)
    state = dict(whole["state_dict"])
    del state[next(key for key in state if key.startswith("generator."))]
    for change, message in (
        (
            {"state_dict": state},
            r"does not fit this model \(.* entries missing, the first .generator\..*\): use the options and version "
            r"of sign-zs3 \(.*\) that it was trained with",
        ),
        (
            {"sign_zs3": whole["sign_zs3"] | {"method": "GANModule"}},
            "^checkpoint: .*: found the method GAN, expected one of SPNet, ZS3, CaGNet, SIGN$",
        ),
        ({"sign_zs3": whole["sign_zs3"] | {"format": 99}}, "found format 99, this version reads"),
    ):
        torch.save(whole | change, tmp_path / "other.ckpt")
        with pytest.raises(UserError, match=message):
            load_task(tmp_path / "other.ckpt")


@pytest.mark.parametrize("part", ["hyper_parameters", "protocol", "method", "state_dict", "option", "byte"])
def test_a_damaged_checkpoint_is_one_line(checkpoint: str, tmp_path: Path, part: str) -> None:
    content = torch.load(checkpoint, weights_only=True)
    path = tmp_path / "damaged.ckpt"
    if part in ("protocol", "method"):
        del content["sign_zs3"][part]
    elif part == "option":
        content["hyper_parameters"]["feature_dim"] = "x"
    elif part == "state_dict":
        content["state_dict"] = [1]
    elif part == "hyper_parameters":
        del content["hyper_parameters"]
    torch.save(content, path)
    if part == "byte":
        spoilt = bytearray(path.read_bytes())
        spoilt[len(spoilt) // 2] ^= 1
        path.write_bytes(spoilt)
    with pytest.raises(UserError, match=r"is damaged|is not of sign-zs3") as caught:
        load_task(path)
    assert "give a .ckpt file that `fit` wrote" in str(caught.value)


def test_a_folder_in_place_of_a_checkpoint_is_told_from_a_missing_one(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is a folder"):
        extend(tmp_path, ["zebra"])


def test_a_place_that_cannot_be_written_is_one_line(checkpoint: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    model = load_task(checkpoint)
    with pytest.raises(UserError, match=r"cannot be written, since .*file is a file; name another place"):
        save_model(model, tmp_path / "file" / "new.ckpt")
    with pytest.raises(UserError, match="this folder cannot be made"):
        model.segmenter.save_pretrained(tmp_path / "file" / "new")
