"""README.md and docs/: every command parses with the script that it names; every link and every file is there."""

import argparse
import os
import re
import runpy
import shlex
import sys
from collections.abc import Iterator
from itertools import groupby, product

import pytest
from tiny import ROOT

from data.catalog import DATASETS, find_dataset
from errors import UserError
from models.network_source import find_network
from tools.common import args as flags
from tools.common import command, run

FILES = [ROOT / "README.md", *sorted(ROOT.glob("docs/*.md"))]
DOCUMENTS = {str(file.relative_to(ROOT)): file.read_text(encoding="utf-8") for file in FILES}
SCRIPTS = [str(file.relative_to(ROOT)) for file in sorted(ROOT.glob("experiments/*/*.*")) if file.suffix != ".pyc"]
SCRIPTS.remove("experiments/reproduce/common.sh")  # a part of the others
MOST_LINES = 170  # of README.md: one page
# of the original VP repository; what the readers of README and of docs/black_box.md write
ELSEWHERE = {"main_clip.py", "top3_vp.py", "my_service.py"}
PLACEHOLDER = re.compile(r"[A-Z]+(\.\.\.)?|my_\w+")  # what a reader puts in: FILE, NAME, my_photos
PROGRAMS = ("python", "torchrun", "srun")


# Commands -----------------------------------------------------------------------------------------------------------


def code_lines(text: str) -> list[str]:
    """The lines of code blocks, between fences or indented by four spaces; lines that end in a backslash are joined.

    A block of Python is no shell; README's is run by test_own_method.py.
    """
    text = re.sub(r"^```python\n.*?^```$", "", text, flags=re.M | re.S)
    lines, fenced = [], False
    for line in text.splitlines():
        if line.startswith("```"):
            fenced = not fenced
        elif fenced or line.startswith("    "):
            lines.append(line.strip())
    return "\n".join(lines).replace("\\\n", " ").splitlines()


def without_fenced(text: str) -> str:
    return re.sub(r"^```.*?^```$", "", text, flags=re.M | re.S)


def simple_commands(text: str) -> list[list[str]]:
    """The words of every command in a document's code, also of those in a loop or a pipe, and of `code in a line`."""
    program = r"(?:\w+=[^`]+ )?(?:python|torchrun|experiments/reproduce/\w+\.sh)\b"
    in_text = re.findall(rf"`({program}[^`]*)`", without_fenced(text))
    lines = [*code_lines(text), *(span.replace("\n", " ") for span in in_text)]
    commands, variables = [], {}
    for line in filter(is_shell, lines):
        line = re.sub(r"\$\([^()]*\)", "VALUE", line)  # what a program prints
        for words in between_operators(line):
            if words[0] == "for":
                variables[words[1]] = words[3:]
            elif words[0] not in ("break", "done"):
                commands += with_values(words, variables)
    return commands


def between_operators(line: str) -> Iterator[list[str]]:
    """The commands of a line of shell, which `;`, `|`, `||` and `&&` separate."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars=";|&")
    lexer.whitespace_split = True  # words may hold any other character; what is behind # is left out
    for is_operator, words in groupby(lexer, lambda word: not word.strip(";|&")):
        words = [word for number, word in enumerate(words) if (number, word) != (0, "do")]
        if words and not is_operator:
            yield words


def with_values(words: list[str], variables: dict[str, list[str]]) -> list[list[str]]:
    """A command of a loop, once for each of the values of the `variables` that it uses."""
    used = [name for name in variables if f"${name}" in words]
    values = product(*(variables[name] for name in used))
    choices = [{f"${name}": value for name, value in zip(used, chosen, strict=True)} for chosen in values]
    return [[choice.get(word, word) for word in words] for choice in choices]


def is_shell(line: str) -> bool:
    """Whether a line of code is typed in a shell: Python code and trees of folders stand in code blocks too."""
    first = re.sub(r"^(\w+=(\"[^\"]*\"|\S*)\s+)+", "", line).split(" ")[0]
    return first in (*PROGRAMS, "for", "pip") or first.endswith(".sh")


def split_settings(words: list[str]) -> tuple[list[str], list[str]]:
    """The NAME=VALUE before a command, and the command."""
    first = next((number for number, word in enumerate(words) if not re.match(r"\w+=", word)), len(words))
    return [word.partition("=")[0] for word in words[:first]], words[first:]


COMMANDS = sorted({(name, shlex.join(words)) for name, text in DOCUMENTS.items() for words in simple_commands(text)})
PYTHON = [(name, line) for name, line in COMMANDS if re.search(r"\.py( |$)", line)]
SHELL = [(name, line) for name, line in COMMANDS if split_settings(shlex.split(line))[1][0].endswith(".sh")]


class Parsed(Exception):
    """A script has taken its flags and would start."""


@pytest.fixture
def parse(monkeypatch, capsys):
    """parse(["tools/report.py", ...]) -> the flags as that script's own parser takes them; the script goes no further.

    Raises:
        UserError: they are not its flags.
    """
    original = argparse.ArgumentParser.parse_args

    def parse_and_stop(parser, argv=None):
        raise Parsed(original(parser, argv))

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parse_and_stop)
    monkeypatch.setattr(flags, "device", str)  # `cuda` need not be here
    for module in (command, run):  # else they would turn errors into exit codes
        monkeypatch.setattr(module, "run_command", lambda main: main())

    def carry_out(words: list[str]) -> argparse.Namespace:
        monkeypatch.setattr(sys, "argv", words)
        try:
            runpy.run_path(str(ROOT / words[0]), run_name="__main__")
        except Parsed as parsed:
            return parsed.args[0]
        except SystemExit:  # of argparse's own parser
            raise UserError(shlex.join(words), capsys.readouterr().err, "Correct the document.") from None
        raise AssertionError(f"{words[0]} parses nothing")

    return carry_out


def from_script(words: list[str]) -> list[str]:
    """A command without the program before the script, and the program's own flags."""
    return words[next(number for number, word in enumerate(words) if word.endswith(".py")) :]


@pytest.mark.parametrize(("document", "line"), PYTHON)
def test_command_parses(document, line, parse):
    words = from_script(shlex.split(line))
    assert (ROOT / words[0]).is_file(), f"{document}: there is no {words[0]}"
    try:
        args = parse(words)
        names = [getattr(args, "dataset", None), *(getattr(args, "datasets", None) or ())]
        if words[0] == "tools/prepare_data.py":
            names += args.names
        for name in names:
            if name and not PLACEHOLDER.fullmatch(name):
                find_dataset(name)
        if "cnn" in words[0]:
            find_network(args.network)
    except UserError as error:
        raise pytest.fail.Exception(f"{document}: {line}\n{error}", pytrace=False) from None


@pytest.mark.parametrize(("document", "line"), SHELL)
def test_shell_script_can_be_typed(document, line):
    _, (script, *others) = split_settings(shlex.split(line))
    assert os.access(ROOT / script, os.X_OK), f"{document}: {script} is not there, or is not executable"
    assert not others, f"{document}: {script} takes settings before it, and no arguments"


@pytest.mark.parametrize(("document", "line"), [pair for pair in COMMANDS if "=" in pair[1]])
def test_settings_before_a_command_are_known(document, line):
    scripts = "".join(file.read_text() for file in ROOT.glob("experiments/reproduce/*.sh"))
    known = {"OMP_NUM_THREADS", *re.findall(r"\$\{?([A-Z_]+)", scripts)}
    known |= set(re.findall(r'"(VP_\w+)"', (ROOT / "cfg.py").read_text()))
    for name in split_settings(shlex.split(line))[0]:
        assert name in known, f"{document}: {line}\nno script knows a setting {name}"


@pytest.mark.parametrize(("document", "line"), COMMANDS)
def test_files_in_a_command_are_there(document, line):
    for word in shlex.split(line):
        if re.fullmatch(r"[\w/]+/\w+\.(py|sh)", word):
            assert (ROOT / word).is_file(), f"{document}: there is no {word}"


def test_commands_are_found():
    text = """
Text with `python tools/report.py --metric best` in it.

    for dataset in dtd svhn; do for seed in 7 8; do
        python a.py --dataset $dataset \\
            --seed $seed || break 2
    done; done

```
X="a b" c.sh   # a comment
python d.py | python e.py - --limit 8
model = f(x)
srun torchrun --host=$(hosts "$LIST" | head -n 1):29500 f.py
```
"""
    expected = [f"python a.py --dataset {name} --seed {seed}" for name in ("dtd", "svhn") for seed in (7, 8)]
    expected += ["'X=a b' c.sh", "python d.py", "python e.py - --limit 8", "srun torchrun --host=VALUE:29500 f.py"]
    expected += ["python tools/report.py --metric best"]
    assert sorted(map(shlex.join, simple_commands(text))) == sorted(expected)


@pytest.mark.parametrize("script", SCRIPTS)
def test_every_experiment_is_named_by_a_command(script):
    assert any(script in shlex.split(line) for _, line in COMMANDS), f"no command in README.md or docs/ names {script}"


# Links and files ----------------------------------------------------------------------------------------------------


def anchors(text: str) -> set[str]:
    """What a link may have behind `#`: the headings, as GitHub writes them."""
    headings = re.findall(r"^#+ (.+)$", without_fenced(text), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("document", DOCUMENTS)
def test_links(document):
    for target in re.findall(r"\]\(([^)\s]+)\)", DOCUMENTS[document]):
        if re.match(r"\w+:", target):  # of the internet
            continue
        path, _, heading = target.partition("#")
        file = ((ROOT / document).parent / path) if path else ROOT / document
        assert file.exists(), f"{document}: the link {target} leads to no file"
        if heading:
            assert heading in anchors(file.read_text()), f"{document}: the link {target} leads to no heading"


@pytest.mark.parametrize("document", DOCUMENTS)
def test_files_named_in_the_text_are_there(document):
    folders = "|".join(
        path.name for path in ROOT.iterdir() if path.is_dir() and path.name not in ("results", "datasets")
    )
    names = {file.name for pattern in ("*.py", "*/*.py", "*/*/*.py", "*/*/*.sh") for file in ROOT.glob(pattern)}
    for words in re.findall(r"`([^`\n]+)`", without_fenced(DOCUMENTS[document])):
        for word in words.split():
            if re.fullmatch(rf"({folders})/[\w./*-]*", word):
                assert any(ROOT.glob(word.rstrip("/"))), f"{document}: there is no {word}"
            elif re.fullmatch(r"\w+\.(py|sh)", word):
                assert word in names | ELSEWHERE, f"{document}: there is no {word} anywhere"


def test_tests_named_in_the_text_are_there():
    rows = re.findall(r"`(test_\w+\.py)`: ((?:`test_\w+`(?:, )?)+)", DOCUMENTS["docs/reliability.md"])
    assert rows
    for file, names in rows:
        content = (ROOT / "tests" / file).read_text()
        missing = [name for name in re.findall(r"`(\w+)`", names) if f"def {name}(" not in content]
        assert not missing, f"docs/reliability.md: there is no {', '.join(missing)} in tests/{file}"


@pytest.mark.parametrize("row", [row for row in DATASETS if row.counts], ids=lambda row: row.name)
def test_table_of_data_sets(row):
    sizes = " / ".join(str(count or "-") for count in row.counts)
    line = re.search(rf"^\|.*`{row.name}`.*\| {sizes}\b", DOCUMENTS["docs/data.md"], re.M)
    assert line, f"docs/data.md has no line for {row.name} with {sizes} images"


def test_readme_is_one_page():
    lines = len(DOCUMENTS["README.md"].splitlines())
    assert lines <= MOST_LINES, f"README.md has {lines} lines, {MOST_LINES} at most: move what is too long to docs/"


def test_readme_says_where_the_rest_is():
    missing = [name for name in DOCUMENTS if name != "README.md" and name not in DOCUMENTS["README.md"]]
    assert not missing, f"README.md does not name {', '.join(missing)}"


@pytest.mark.parametrize("document", DOCUMENTS)
def test_no_path_of_somebodys_machine(document):
    found = re.findall(r"(?:/home/|/Users/|/root/|/tmp/|[A-Z]:\\)\S*", DOCUMENTS[document])
    assert not found, f"{document} names {', '.join(found)}"
