from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from sign_zs3 import ClassTable, SIGNModule, UserError, load_task
from sign_zs3.vocabulary import extend, remove, rename, save_model
from tests.conftest import TINY, quiet_trainer, tiny_data, tiny_model
from tests.vocabulary.conftest import CLASSES, NEW, projection, trained, trained_without


@pytest.mark.parametrize("with_data", [False, True])
def test_new_classes_leave_old_rows_alone(checkpoint: str, with_data: bool) -> None:
    old = load_task(checkpoint)
    before = {key: value.clone() for key, value in old.state_dict().items()}
    new = extend(old, NEW, data=tiny_data() if with_data else None)
    assert all(torch.equal(value, before[key]) for key, value in old.state_dict().items())
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
