"""Class splits of generalised zero-shot segmentation, as data."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from sign_zs3.errors import UserError, did_you_mean
from sign_zs3.files import composed, is_name
from sign_zs3.limits import MAX_NAME

IGNORE_INDEX = 255

_LISTS = ("classes", "ids", "ignored_ids")
_T = TypeVar("_T", str, int)


@dataclass(frozen=True)
class Protocol:
    """Which classes a data set has, which of them are seen, and how its own ids map to contiguous ones.

    Contiguous ids count the seen classes first (0..S-1), then the unseen ones (S..C-1); 255 is ignored. Lists may stand
    for the tuples.

    Args:
        dataset: Name of the data set, e.g. ``"voc"``.
        split: Name of the class split, e.g. ``"default"``.
        classes: C class names, seen ones first.
        ids: The data set's own ids (0..254) of `classes`, in the same order.
        num_seen: S, the number of seen classes.
        ignored_ids: Own ids (0..255) that mean "no label".
        palette: Colours of the data set's own masks: RGB of the ids 0..255 as 1,536 hexadecimal digits; empty: none.
            Two splits that differ in nothing else are equal.

    Raises:
        UserError: Lengths differ, a name or id repeats, an id is out of range or class and ignored, or none is seen.
    """

    dataset: str
    split: str
    classes: tuple[str, ...]
    ids: tuple[int, ...]
    num_seen: int
    ignored_ids: tuple[int, ...] = ()
    palette: str = field(default="", compare=False)

    def __post_init__(self) -> None:
        for name in _LISTS:
            object.__setattr__(self, name, tuple(getattr(self, name)))
        for problem in self._problems():
            raise UserError(f"class split {self.dataset!s:.100}/{self.split!s:.100}: {problem}")

    def _problems(self) -> Iterator[str]:
        short = f"of at most {MAX_NAME} characters; rename it"
        yield from (f"found {t!r:.100}, expected names {short}" for t in (self.dataset, self.split) if not is_name(t))
        bad = (name for name in self.classes if not (is_name(name) and name.strip()))
        yield from (f"found {name!r:.100} as a class, expected a name {short}" for name in bad)
        if (names := len(self.classes)) != len(self.ids):
            yield f"found {names} class names and {len(self.ids)} ids, expected one id per name; complete the list"
        yield from (f"found the class {name!r} twice, expected it once; remove one" for name in _repeated(self.classes))
        yield from (f"found the id {i} twice, expected it once; remove one" for i in _repeated(self.ids))
        for kind, ids, most in (("class", self.ids, IGNORE_INDEX - 1), ("ignored", self.ignored_ids, IGNORE_INDEX)):
            outside = (i for i in ids if not 0 <= i <= most)
            yield from (f"found the {kind} id {i}, expected 0 to {most}; renumber the masks" for i in outside)
        for i in sorted(set(self.ids) & set(self.ignored_ids)):
            yield f"found the id {i} as a class and as ignored, expected one of them; remove it from the other"
        if not re.fullmatch("(?:[0-9a-f]{1536})?", self.palette):
            yield f"found the palette {self.palette!r:.20}, expected 1536 hexadecimal digits or none; leave it out"
        if not 1 <= self.num_seen <= names:
            expected = "expected at least one seen class; shorten the list of unseen classes"
            yield f"found {self.num_seen} seen of {names} classes, {expected}"

    @classmethod
    def build(
        cls,
        dataset: str,
        split: str,
        names: Mapping[int, str],
        unseen: Sequence[str],
        ignored_ids: Collection[int] = (IGNORE_INDEX,),
        ignored_classes: Sequence[str] = (),
    ) -> Protocol:
        """Split the classes of a data set by name; both halves are ordered by the data set's own id.

        `names` maps own ids to class names; the names in `unseen` stand in any order, and those in `ignored_classes`
        are left out: their ids are ignored ones. All are `composed`.

        Raises:
            UserError: A name is no class (close matches are proposed), is given twice or is both unseen and ignored, or
                no class is left seen.
        """
        names, unseen = {i: composed(name) for i, name in names.items()}, [composed(name) for name in unseen]
        left_out = [composed(name) for name in ignored_classes]
        for option, name in (*(("ignored_classes", name) for name in left_out), *(("unseen", name) for name in unseen)):
            if name not in names.values():
                hint = did_you_mean(name, names.values(), otherwise="; correct the name")
                known = ", ".join(names[i] for i in sorted(names))
                raise UserError(f"{option}: found {name!r}, expected a class of {dataset} ({known}){hint}")
        if both := [name for name in unseen if name in left_out]:
            raise UserError(f"unseen: found {both[0]!r}, which is in ignored_classes too; remove it from one of them")
        ignored_ids = {*ignored_ids, *(i for i, name in names.items() if name in left_out)}
        names = {i: name for i, name in names.items() if name not in left_out}
        if twice := _repeated(unseen):
            raise UserError(f"unseen: found {twice[0]!r} twice, expected each name once; remove one")
        ordered = sorted(names, key=lambda i: (names[i] in unseen, i))
        classes, num_seen = tuple(names[i] for i in ordered), len(ordered) - len(unseen)
        return cls(dataset, split, classes, tuple(ordered), num_seen, tuple(sorted(ignored_ids)))

    def as_dict(self) -> dict[str, Any]:
        """Return plain types, as hyperparameters and JSON hold them."""
        items = ((key, list(value) if isinstance(value, tuple) else value) for key, value in asdict(self).items())
        return {key: value for key, value in items if value or key != "palette"}

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> Protocol:
        """Return the protocol that `as_dict` wrote.

        Raises:
            UserError: A field is missing, unknown, of another type or out of range.
        """
        kinds = {"dataset": str, "split": str, "classes": str, "ids": int, "num_seen": int, "ignored_ids": int}
        kinds["palette"] = str
        if odd := sorted(kinds.keys() ^ {*fields, "ignored_ids", "palette"}):
            found = f"{', '.join(map(str, fields)):.200}"
            raise UserError(f"protocol: found {found}, expected {', '.join(kinds)} ({odd[0]})")
        for name, value in fields.items():
            number, items = ("a list of", value) if name in _LISTS else ("one", [value])
            if not isinstance(items, (list, tuple)) or not all(type(item) is kinds[name] for item in items):
                what = f"{number} {kinds[name].__name__}"
                raise UserError(f"protocol: {name}: found {value!r:.100}, expected {what}")
        return cls(**fields)

    @property
    def num_classes(self) -> int:
        """C, the number of classes, seen and unseen."""
        return len(self.classes)

    @property
    def unseen_classes(self) -> tuple[str, ...]:
        """Names of the unseen classes."""
        return self.classes[self.num_seen :]

    @property
    def seen(self) -> tuple[int, ...]:
        """Contiguous ids of the seen classes: 0..S-1."""
        return tuple(range(self.num_seen))

    @property
    def unseen(self) -> tuple[int, ...]:
        """Contiguous ids of the unseen classes: S..C-1."""
        return tuple(range(self.num_seen, self.num_classes))

    def lookup(self, hide_unseen: bool = False) -> NDArray[np.int64]:
        """Return the table from own ids to contiguous ones.

        The result is int64 (256,): the contiguous id, 255 for an ignored id, or -1 for an id that is neither.
        `hide_unseen` sends the unseen classes to 255, as training must.
        """
        table = np.full(256, -1, np.int64)
        table[list(self.ignored_ids)] = IGNORE_INDEX
        shown = self.num_seen if hide_unseen else self.num_classes
        table[list(self.ids)] = [i if i < shown else IGNORE_INDEX for i in range(self.num_classes)]
        return table

    def to_ids(self) -> NDArray[np.uint8]:
        """Return the table from contiguous ids to own ids, uint8 (256,); 255 and unused entries give 255."""
        table = np.full(256, IGNORE_INDEX, np.uint8)
        table[: self.num_classes] = self.ids
        return table

    def development(self, count: int, seed: int = 0) -> Protocol:
        """Make a split for choosing hyperparameters without looking at the true unseen classes.

        `count` (1..S-1) seen classes, drawn by `seed` (at least 0), play the unseen ones; the true unseen classes leave
        the vocabulary and their pixels are ignored everywhere.

        Raises:
            UserError: `count` leaves no class seen or is below 1.
        """
        if not 1 <= count < self.num_seen:
            expected = f"1 to {self.num_seen - 1} of the {self.num_seen} seen classes"
            raise UserError(f"development: found {count}, expected {expected}; lower it")
        drawn = set(np.random.default_rng([seed, count]).permutation(self.num_seen)[:count].tolist())
        ordered = sorted(self.seen, key=lambda i: (i in drawn, i))
        return replace(
            self,
            split=f"{self.split}-development{count}-{seed}",
            classes=tuple(self.classes[i] for i in ordered),
            ids=tuple(self.ids[i] for i in ordered),
            num_seen=self.num_seen - count,
            ignored_ids=tuple(sorted({*self.ignored_ids, *self.ids[self.num_seen :]})),
        )


def ranges(ids: Sequence[int]) -> str:
    """Write ids as short ranges, e.g. ``1-20, 255``."""
    parts: list[list[int]] = []
    for i in sorted(ids):
        if parts and parts[-1][1] == i - 1:
            parts[-1][1] = i
        else:
            parts.append([i, i])
    return ", ".join(str(low) if low == high else f"{low}-{high}" for low, high in parts) or "none"


def _repeated(values: Sequence[_T]) -> list[_T]:
    counts = Counter(values)
    return [value for value, count in counts.items() if count > 1]
