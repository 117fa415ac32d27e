"""From the class names of data sets to the entries of word lists, which spell them differently."""

from collections.abc import Iterable

from sign_zs3.errors import close_names
from sign_zs3.files import composed

# spellings of one thing, in the order in which they are tried
_SPELLINGS: tuple[tuple[str, ...], ...] = (
    ("airplane", "aeroplane"),
    ("motorcycle", "motorbike"),
    ("tv", "tvmonitor", "tv monitor", "television"),
    ("dining table", "diningtable"),
    ("potted plant", "pottedplant"),
    ("playing field", "playingfield"),
    ("water drops", "waterdrops"),
    ("bedclothes", "bedcloth", "bed clothes"),
    ("eyeglasses", "eye glasses"),
    ("dryer", "drier"),
    ("doughnut", "donut"),
    ("cassette", "casette"),
    ("crab stick", "crabstick"),
    ("hydro valve", "hydrovalve"),
    ("gray", "grey"),
)
WHOLE = "whole:"
"""Stands before the name of a source whose vectors are those of whole names, never means over words."""
_LETTERS = "abcdefghijklmnopqrstuvwxyz"
_OTHERS: dict[str, tuple[str, ...]] = {
    spelling: tuple(other for other in group if other != spelling) for group in _SPELLINGS for spelling in group
}


def canonical(name: str) -> str:
    """Return a class name in lower case and `composed`, with `_` and `-` as spaces, and single spaces.

    >>> canonical("Wall-brick_other")
    'wall brick other'
    """
    return " ".join(composed(name).lower().replace("_", " ").replace("-", " ").split())


def in_english(name: str) -> str:
    """Return a class name as a sentence has it: what data sets write as one word apart, `-` and `_` as spaces.

    >>> in_english("pottedplant"), in_english("wall-brick"), in_english("television")
    ('potted plant', 'wall brick', 'television')
    """
    spaced = {"".join(form.split()): form for group in _SPELLINGS for form in group if " " in form}
    return spaced.get(name, " ".join(name.replace("_", " ").replace("-", " ").split()))


def words_of(names: Iterable[str]) -> list[str]:
    """Return every entry that class names could be found under, sorted: what to read from a large word list.

    These are the names, their canonical forms and other spellings, all their words, and phrases joined by `_`.

    >>> words_of(["hot dog"])
    ['dog', 'hot', 'hot dog', 'hot_dog']
    """
    wanted: set[str] = set()
    for name in names:
        form = canonical(name)
        spellings = {spelling for part in (form, *form.split()) for spelling in (part, *_OTHERS.get(part, ()))}
        wanted |= {name, *spellings}
        for spelling in spellings:
            wanted |= {*spelling.split(), "_".join(spelling.split())}
    return sorted(wanted)


def near_spellings(words: Iterable[str]) -> set[str]:
    """Return all that is one typing error away from some words in lower case: what an error may propose instead.

    That is one letter left out, added or other, or two neighbours swapped. Words of less than four letters give none,
    nor do those of more than 40, since what they give grows with the square of that.
    """
    near: set[str] = set()
    for word in words:
        if not 4 <= len(word) <= 40:
            continue
        cuts = [(word[:i], word[i:]) for i in range(len(word) + 1)]
        near.update(left + right[1:] for left, right in cuts if right)
        near.update(left + right[1] + right[0] + right[2:] for left, right in cuts if len(right) > 1)
        near.update(left + letter + right[cut:] for left, right in cuts for letter in _LETTERS for cut in (0, 1))
    return near


class Vocabulary:
    """The entries of a table of vectors, found by class name.

    Args:
        entries: Class names or single words, all different.
        phrases: The entries are those of a word list, where `_` joins the words of a phrase (`hot_dog`). The mean of
            `hot` and `dog` then comes before it, since that is what the published tables hold.
    """

    def __init__(self, entries: Iterable[str], phrases: bool = False) -> None:
        self._exact = dict.fromkeys(entries)
        self._by_form: dict[str, str] = {}
        self._phrases: dict[str, str] = {}
        for entry in self._exact:
            form = canonical(entry)
            index = self._phrases if phrases and "_" in entry else self._by_form
            if entry == form or form not in index:
                index[form] = entry

    def find(self, name: str, whole: bool = False) -> list[str] | None:
        """Return the entries whose mean stands for a class name, tried as in `resolve`; None where a word has none.

        With `whole` only an entry of the whole name counts.
        """
        if name in self._exact:
            return [name]
        form = canonical(name)
        for spelling in (form, *_OTHERS.get(form, ())):
            if spelling in self._by_form:
                return [self._by_form[spelling]]
            if not whole and (entries := self._words(spelling)):
                return entries
            if spelling in self._phrases:
                return [self._phrases[spelling]]
        return None

    def hint(self, name: str) -> str:
        """Return what to say of a name that was not found: its unknown words and the entries that look alike."""
        words = canonical(name).split()
        unknown = [word for word in words if self._spelt(word) is None]
        near = close_names(canonical(name), self._by_form, 3, 0.6)
        for word in unknown:
            near += [other for other in close_names(word, self._by_form, 2, 0.6) if other not in near]
        lacking = f" (no {', '.join(unknown)})" if len(words) > 1 else ""
        return f"'{name}'{lacking}" + (f", close: {', '.join(near[:4])}" if near else ", nothing close")

    def _spelt(self, form: str) -> str | None:
        return next((self._by_form[s] for s in (form, *_OTHERS.get(form, ())) if s in self._by_form), None)

    def _words(self, form: str) -> list[str]:
        """Return an entry or more per word; nothing where one is missing."""
        entries: list[str] = []
        for word in form.split():
            # by parts, for "pottedplant other": a word's other spelling may be several words
            groups = [[self._spelt(part) for part in spelling.split()] for spelling in (word, *_OTHERS.get(word, ()))]
            known = next(([p for p in group if p is not None] for group in groups if None not in group), [])
            if not known:
                return []
            entries += known
        return entries
