"""Class vectors: look-up by name, normalisation, files and refusals."""

from __future__ import annotations

import pickle
import stat
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from sign_zs3.embeddings import ClassTable
from sign_zs3.errors import UserError

NAMES = ("cat", "dog", "dining", "table", "potted", "plant", "wall", "other", "tv", "airplane", "motorcycle", "red")


def make_table(names: tuple[str, ...] = NAMES, **options: Any) -> ClassTable:
    generator = np.random.default_rng(0)
    sources = {
        "word": generator.normal(size=(len(names), 6)).astype(np.float32) * 3,
        "fast": generator.normal(size=(len(names), 4)).astype(np.float32),
    }
    return ClassTable(names, sources, **options)


def unit(vector: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    result: np.ndarray[Any, Any] = vector / np.linalg.norm(vector)
    return result


class TestVectors:
    def test_each_source_is_normalised_then_joined_then_normalised(self) -> None:
        table = make_table()
        found = table.vectors(["dog", "cat"])
        assert found.dtype == torch.float32
        assert found.shape == (2, 10)
        expected = [
            np.concatenate([unit(table.sources["fast"][row]), unit(table.sources["word"][row])]) / np.sqrt(2)
            for row in (1, 0)
        ]
        np.testing.assert_allclose(found.numpy(), expected, atol=1e-6)
        torch.testing.assert_close(found.norm(dim=1), torch.ones(2))

    def test_sources_are_chosen_in_order(self) -> None:
        table = make_table()
        word, fast = table.vectors(["dog"], ["word"]), table.vectors(["dog"], ["fast"])
        assert word.shape == (1, 6)
        torch.testing.assert_close(table.vectors(["dog"], ["word", "fast"]), torch.cat([word, fast], dim=1) / 2**0.5)
        torch.testing.assert_close(table.vectors(["dog"]), torch.cat([fast, word], dim=1) / 2**0.5)

    @pytest.mark.parametrize("name", ["wall-other", "wall_other", "Wall Other", "wall  other"])
    def test_several_words_are_the_mean_of_raw_rows(self, name: str) -> None:
        table = make_table()
        raw = table.sources["word"]
        expected = unit((raw[NAMES.index("wall")] + raw[NAMES.index("other")]) / 2)
        np.testing.assert_allclose(table.vectors([name], ["word"])[0].numpy(), expected, atol=1e-6)

    @pytest.mark.parametrize(
        ("name", "same"),
        [
            ("aeroplane", "airplane"),
            ("motorbike", "motorcycle"),
            ("tvmonitor", "tv"),
            ("tv-monitor", "tv"),
            ("diningtable", "dining table"),
            ("pottedplant", "potted plant"),
            ("pottedplant-other", "potted plant other"),
            ("red_aeroplane", "red airplane"),
            ("DOG", "dog"),
        ],
    )
    def test_other_spellings(self, name: str, same: str) -> None:
        table = make_table()
        assert torch.equal(table.vectors([name]), table.vectors([same]))

    def test_spellings_work_both_ways(self) -> None:
        table = make_table(("aeroplane", "motorbike", "diningtable", "tvmonitor", "playingfield"))
        for row, name in enumerate(("airplane", "motorcycle", "dining table", "tv", "playing-field")):
            expected = unit(table.sources["word"][row])
            np.testing.assert_allclose(table.vectors([name], ["word"])[0].numpy(), expected, atol=1e-6)

    def test_the_exact_name_comes_first(self) -> None:
        table = make_table(("wall-brick", "wall", "brick", "Wall", "airplane", "aeroplane"))
        for row, name in enumerate(table.names):
            expected = unit(table.sources["word"][row])
            np.testing.assert_allclose(table.vectors([name], ["word"])[0].numpy(), expected, atol=1e-6)
        assert torch.equal(table.vectors(["wall brick"]), table.vectors(["wall-brick"]))
        assert torch.equal(table.vectors(["WALL"]), table.vectors(["wall"]))

    def test_centring_takes_the_common_part_out(self) -> None:
        table = make_table()
        names = ["cat", "dog", "dining table"]
        raw = table.sources["word"]
        rows = np.stack([raw[0], raw[1], (raw[2] + raw[3]) / 2])
        expected = rows - rows.mean(axis=0)
        expected /= np.linalg.norm(expected, axis=1, keepdims=True)
        found = table.vectors(names, ["word"], center=True)
        np.testing.assert_allclose(found.numpy(), expected, atol=1e-6)
        moved = ClassTable(table.names, {key: matrix + 5 for key, matrix in table.sources.items()})
        torch.testing.assert_close(
            moved.vectors(names, center=True), table.vectors(names, center=True), atol=1e-5, rtol=0
        )

    def test_names_without_a_vector_are_all_named(self) -> None:
        with pytest.raises(UserError) as refusal:
            make_table(origin="table.npz").vectors(["dog", "catt", "red zebra", "dig"])
        message = str(refusal.value)
        assert message.startswith(
            "table.npz: no vector for 3 of 4 class names: 'catt', close: cat; 'red zebra' (no zebra)"
        )
        assert "'dig', close: dining" in message or "'dig', close: dog" in message
        assert "\n" not in message

    def test_zero_vectors(self) -> None:
        table = ClassTable(("background", "dog"), {"word": np.array([[0, 0], [1, 2]], dtype=np.float32)})
        assert table.vectors(["dog"]).shape == (1, 2)
        with pytest.raises(UserError, match="'word' has a zero vector for 'background'"):
            table.vectors(["dog", "background"])
        with pytest.raises(UserError, match="zero vector after centring for 'dog'"):
            table.vectors(["dog"], center=True)

    def test_bad_requests(self) -> None:
        with pytest.raises(UserError, match="no source 'glove': choose from 'fast', 'word'"):
            make_table().vectors(["dog"], ["glove"])
        with pytest.raises(UserError, match="list of class names"):
            make_table().vectors("dog")
        with pytest.raises(UserError, match="list of class names"):
            make_table().vectors([])


class TestFiles:
    @pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
    def test_round_trip(self, suffix: str, tmp_path: Path) -> None:
        table = make_table((*NAMES, "Straße"))
        path = tmp_path / f"table{suffix}"
        table.save(path)
        loaded = ClassTable.load(path)
        assert loaded.names == table.names
        assert list(loaded.sources) == ["fast", "word"]
        for key in table.sources:
            assert np.array_equal(loaded.sources[key], table.sources[key])
        first = path.read_bytes()
        loaded.save(path)
        assert path.read_bytes() == first
        assert list(tmp_path.iterdir()) == [path]

    def test_permissions_follow_the_umask(self, tmp_path: Path) -> None:
        (tmp_path / "plain").touch()
        make_table().save(tmp_path / "table.safetensors")
        modes = {stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()}
        assert len(modes) == 1

    def test_a_failed_write_leaves_the_old_file(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        path = tmp_path / "table.npz"
        make_table().save(path)
        before = path.read_bytes()

        def full_disk(file: Any, **arrays: Any) -> None:
            file.write(b"half")
            raise OSError("no space left")

        monkeypatch.setattr(np, "savez", full_disk)
        with pytest.raises(UserError, match=r"table\.npz: cannot be written \(no space left\)"):
            make_table().save(path)
        assert path.read_bytes() == before
        assert list(tmp_path.iterdir()) == [path]

    def test_writing_refuses(self, tmp_path: Path) -> None:
        with pytest.raises(UserError, match="unknown kind"):
            make_table().save(tmp_path / "table.txt")
        (tmp_path / "file").touch()
        with pytest.raises(UserError, match="cannot be written"):
            make_table().save(tmp_path / "file" / "table.npz")
        make_table().save(tmp_path / "new" / "table.npz")
        assert [path.name for path in (tmp_path / "new").iterdir()] == ["table.npz"]

    def test_missing_and_unknown(self, tmp_path: Path) -> None:
        with pytest.raises(UserError, match=r"none\.npz: no such file"):
            ClassTable.load(tmp_path / "none.npz")
        (tmp_path / "glove.txt").write_text("dog 1 2\n")
        with pytest.raises(UserError, match=r"glove\.txt: unknown kind of table"):
            ClassTable.load(tmp_path / "glove.txt")

    @pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
    @pytest.mark.parametrize("keep", [0.0, 0.1, 0.6, 0.97])
    def test_truncated(self, suffix: str, keep: float, tmp_path: Path) -> None:
        path = tmp_path / f"table{suffix}"
        make_table().save(path)
        content = path.read_bytes()
        path.write_bytes(content[: int(len(content) * keep)])
        with pytest.raises(UserError, match=rf"table{suffix}: cannot be read") as refusal:
            ClassTable.load(path)
        assert "\n" not in str(refusal.value)

    def test_pickles_are_never_loaded(self, tmp_path: Path) -> None:
        ran = tmp_path / "ran"

        class Bomb:
            def __reduce__(self) -> tuple[Any, ...]:
                return (Path.touch, (ran,))

        objects = tmp_path / "objects.npz"
        np.savez(objects, names=np.array(["dog"]), word=np.array([[Bomb()]], dtype=object))
        plain = tmp_path / "plain.npz"
        plain.write_bytes(pickle.dumps(Bomb()))
        named = tmp_path / "named.npz"
        np.savez(named, names=np.array(["dog", Bomb()], dtype=object), word=np.ones((2, 3), dtype=np.float32))
        ran.unlink(missing_ok=True)
        for path in (objects, plain, named):
            with pytest.raises(UserError, match=rf"{path.name}: cannot be read"):
                ClassTable.load(path)
        assert not ran.exists()

    @pytest.mark.parametrize(
        ("arrays", "message"),
        [
            ({"word": np.ones((1, 3))}, "no 'names'"),
            ({"names": np.array([1]), "word": np.ones((1, 3))}, "'names' of int64"),
            ({"names": np.array([["dog"]]), "word": np.ones((1, 3))}, "'names' of <U3, shape"),
            ({"names": np.array(["dog"])}, "no source"),
            ({"names": np.array(["dog"]), "word": np.ones((2, 3))}, r"'word' is float64 of shape \(2, 3\)"),
            ({"names": np.array(["dog"]), "word": np.ones(3)}, r"expected a float matrix of \(1, d\)"),
            ({"names": np.array(["dog"]), "word": np.ones((1, 0))}, "expected a float matrix"),
            ({"names": np.array(["dog"]), "word": np.ones((1, 3), dtype=int)}, "'word' is int64"),
            ({"names": np.array(["dog", "cat", "dog"]), "word": np.ones((3, 2))}, "names occur twice: 'dog'"),
            ({"names": np.array(["dog", " "]), "word": np.ones((2, 2))}, "none of them empty"),
            ({"names": np.array(["dog", "cat"]), "word": np.array([[1.0], [np.nan]])}, "NaN or infinite .* 'cat'"),
            ({"names": np.array(["dog"]), "word": np.array([[np.inf]])}, "NaN or infinite"),
            ({"names": np.array(["dog"]), "word": np.array([[1e300]])}, "NaN or infinite"),
        ],
    )
    def test_contents_refused(self, arrays: dict[str, Any], message: str, tmp_path: Path) -> None:
        path = tmp_path / "table.npz"
        np.savez(path, **arrays)
        with pytest.raises(UserError, match=message) as refusal:
            ClassTable.load(path)
        assert str(path) in str(refusal.value)

    @pytest.mark.parametrize(
        "metadata", [None, {"names": "dog"}, {"names": '"dog"'}, {"names": "[1]"}, {"names": "[]"}]
    )
    def test_safetensors_names_refused(self, metadata: dict[str, str] | None, tmp_path: Path) -> None:
        path = tmp_path / "table.safetensors"
        save_file({"word": np.ones((1, 3), dtype=np.float32)}, path, metadata)
        with pytest.raises(UserError, match=r"table\.safetensors"):
            ClassTable.load(path)

    def test_a_single_array_is_no_table(self, tmp_path: Path) -> None:
        path = tmp_path / "table.npz"
        with path.open("wb") as file:
            np.save(file, np.ones(3))
        with pytest.raises(UserError, match=r"is no \.npz archive"):
            ClassTable.load(path)


def test_repr_is_short() -> None:
    assert repr(make_table()) == "ClassTable(12 names, fast: 4, word: 6)"


def test_values_do_not_change_under_the_table() -> None:
    matrix: Any = np.ones((1, 2), dtype=np.float32)
    table = ClassTable(("dog",), {"word": matrix})
    matrix[:] = np.nan
    assert torch.isfinite(table.vectors(["dog"])).all()
