"""What ``--help`` shows is true: each option is there, and each default is the one that holds."""

from __future__ import annotations

import importlib
import inspect
import json
import re
import shlex
import subprocess
import sys
from contextlib import suppress
from typing import Any

import pytest
from pytorch_lightning import Trainer

from sign_zs3.callbacks import ScheduleCheckpoint
from sign_zs3.cli import main
from sign_zs3.commands import help as pages
from sign_zs3.commands.configuration import TRAINING, VERBS
from sign_zs3.commands.parsing import VerbParser
from sign_zs3.commands.usage import _DATA, options_of
from sign_zs3.tasks import METHODS

CONFIGURED = [*TRAINING, "data check", "data show", "embed show"]
OWN = sorted({*VERBS, "predict", "data convert"} - {"data"})
"""The verbs with a parser of their own."""


def shown(capsys: pytest.CaptureFixture[str], *args: str) -> str:
    with suppress(SystemExit):
        assert main(list(args)) == 0
    printed = capsys.readouterr()
    assert not printed.err
    return printed.out


def options_and_texts() -> list[tuple[str, str, str]]:
    return [
        (verb, name, text)
        for verb, page in pages.PAGES.items()
        for group in page.groups.values()
        for name, text in group.items()
        if name
    ]


def test_the_program_names_each_verb_once(capsys: pytest.CaptureFixture[str]) -> None:
    out = shown(capsys, "--help")
    verbs = re.findall(r"^  ([a-z]+)  +\S", out, re.MULTILINE)
    assert sorted(verbs) == sorted([*TRAINING, *VERBS])
    assert len(out.splitlines()) < 40


@pytest.mark.parametrize("verb", CONFIGURED)
def test_help_is_short_and_ends_with_examples(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    args = [*verb.split(), *(["--config", "x.yaml"] if verb == "predict" else [])]
    out = shown(capsys, *args, "--help")
    assert out == shown(capsys, *args, "-h")
    assert len(out.splitlines()) <= 90
    assert max(map(len, out.splitlines())) <= 112
    assert out.count(f"\n  sign-zs3 {verb} ") >= 2
    assert "--help all" in out


@pytest.mark.parametrize("verb", OWN)
def test_other_verbs_too(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    out = shown(capsys, *verb.split(), "--help")
    assert len(out.splitlines()) <= 90
    assert out == shown(capsys, *verb.split(), "--help", "all")
    examples = re.findall(rf"^  (sign-zs3 {verb} .*)", out, re.MULTILINE)
    assert len(examples) == 2


@pytest.mark.parametrize("verb", sorted(pages.EXAMPLES))
def test_examples_are_taken_by_the_parser(verb: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The parser takes every example; what an example does is stopped there."""

    class Taken(Exception):
        pass

    parse = VerbParser.parse_known_args

    def taken(self: VerbParser, args: Any = None, namespace: Any = None) -> Any:
        _, rest = parse(self, args, namespace)
        assert not rest or (verb == "extend" and rest[0] == "--config")
        raise Taken

    monkeypatch.setattr(VerbParser, "parse_known_args", taken)
    module = importlib.import_module(f"sign_zs3.commands.{verb.replace('data ', '')}")
    for example in pages.EXAMPLES[verb]:
        program, *args = shlex.split(example)
        assert program == "sign-zs3"
        with pytest.raises(Taken):
            module.run(args[len(verb.split()) :])


@pytest.mark.parametrize(("verb", "name", "text"), options_and_texts())
def test_each_option_is_there_with_its_default(verb: str, name: str, text: str) -> None:
    option = name.split()[0]
    section, _, rest = option.removeprefix("--").partition(".")
    told = re.search(r"\(default: ([^,)]*)", text)
    found: list[Any]
    if section == "model":
        found = [method.defaults()[rest] for method in METHODS.values() if rest in method.defaults()]
        assert len(found) == len(METHODS) or "of SIGN" in text or rest in METHODS["ZS3"].defaults()
    elif section == "data" and rest:
        owners = [kind for kind in _DATA.values() if rest in options_of(kind)]
        assert owners, option
        found = [default_of(kind, rest) for kind in owners] if told else [None]
    elif section == "trainer":
        found = [inspect.signature(Trainer.__init__).parameters[rest].default]
        if rest == "default_root_dir":
            found = ["runs"]  # where it is null
        told = None if rest == "logger" else told
    elif section == "checkpoint":
        found = [ScheduleCheckpoint().every]
    else:
        assert option in KNOWN, option
        return
    assert found, option
    if told:
        assert told[1] in {as_text(value) for value in found}


KNOWN = {
    "--config", "--method", "--ckpt_path", "--seed_everything", "--data", "--report", "--split", "--count",
    "--as_trained", "--output", "--nearest", "--json", "--print_config",
}  # fmt: skip


def default_of(kind: type, name: str) -> Any:
    for base in kind.__mro__:
        parameters = inspect.signature(vars(base)["__init__"]).parameters if "__init__" in vars(base) else {}
        if name in parameters:
            return parameters[name].default
    raise AssertionError(name)


def as_text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def test_all_lists_every_option(capsys: pytest.CaptureFixture[str]) -> None:
    out = shown(capsys, "fit", "--help", "all")
    for option in METHODS["SIGN"].defaults().keys() - {"seed", "protocol"}:
        assert f"--model.{option}" in out
    assert "--trainer.benchmark" in out and out.startswith("usage: sign-zs3 VERB")


def test_short_help_imports_nothing_heavy() -> None:
    program = (
        "import sys; from sign_zs3.cli import main\n"
        "for args in (['--help'], ['fit', '--help'], ['data', 'check', '-h'], ['predict', '--config', 'x', '-h']):\n"
        "    assert main(args) == 0\n"
        "assert not {'torch', 'numpy', 'jsonargparse'} & sys.modules.keys()"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
