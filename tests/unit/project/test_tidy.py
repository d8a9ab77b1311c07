"""The house rules that no linter knows: sizes, names, docstrings, documentation, and what must never be committed.

Walks the tree with `ast`. A rule is a pure function from a source to its complaints; `BAD_EXAMPLES` proves that each
one can fail. The one rule: a file or a class may be long only when its own docstring says "Long because".
"""

import ast
import gc
import io
import re
import subprocess
import tokenize
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path

import pytest

from agent.config.table import SETTINGS

ROOT = Path(__file__).parents[3]
CODE = ("agent", "discovery")
PYTHON = (*CODE, "bench", "install", "tests")

FILE_LINES_MAX = 450
TEST_FILE_LINES_MAX = 500  # A table of cases is long without being hard to read.
FUNCTION_LINES_MAX = 70
CLASS_LINES_MAX = 200
BRIEF_FILE_LINES = 80  # Shorter files may say what they are in one line.
BANNED_WORDS = {
    "util",
    "utils",
    "common",
    "helper",
    "helpers",
    "manager",
    "managers",
    "handler",
    "handlers",
    "misc",
    "data",
}
# Rooms whose comments and docstrings are in plain English.
FINISHED_ROOMS = PYTHON
# Clauses in place of a noun, passive tales, and words of ours for what has a name. Inline code is left out.
ROUNDABOUT = re.compile(
    r"\b("
    r"whoever|whom|nobody|somebody|everybody|who (asks|wants|listens|waits|writes)|what (is|was) (asked|said|told)"
    r"|(is|are|was|were|be|been|being) told|told (of|apart|that|to)|of which|wish(es)?|own word|by the word"
    r"|desk|doors?|parked call|hello of"
    r")\b",
    re.IGNORECASE,
)
# Put together here, so that this file does not hold what it looks for.
UNFINISHED = re.compile(r"\b(" + "TO" + "DO|FIX" + "ME|XX" + "X)\\b")
MACHINE = re.compile(
    "|".join(
        (
            r"pypi\." + "org",
            "python" + "hosted",
            r"(deb|snapshot|archive|security)\.debian\." + "org",
            r"registry\.npmjs",
            r"(?<![\w.-])/" + "work/",
            r"(?<![\w.-])/" + "tmp/v/",
            "/ro" + "ot/",
            r"/opt/" + "(pypi|wheels)",
            r"\.\./" + "shared",
            "--(extra-)?index-" + "url|--find-" + "links|--trusted-" + "host",
        )
    )
)


# What begins like a comment in a text is none.
TEXT_OR_COMMENT = re.compile(
    r"""(\"{3}|'{3})(?:\\.|[^\\])*?\1|"(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])*'|(?P<comment>\#[^\n]*)""", re.DOTALL
)
LOOKED_AT = (
    *(ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef),
    *(ast.Call, ast.Constant, ast.Import, ast.ImportFrom, ast.UnaryOp),
)


@dataclass(frozen=True)
class Source:
    """One Python file: its path from the root, its text and its tree."""

    path: str
    text: str
    tree: ast.Module

    @classmethod
    def of(cls, path: str, text: str) -> "Source":
        return cls(path, text, ast.parse(text))

    @property
    def docstring(self) -> str:
        return ast.get_docstring(self.tree) or ""

    @cached_property
    def nodes(self) -> tuple[ast.AST, ...]:
        """What rules look at, of the whole tree. Walking it takes longer than all rules together: once a file."""
        return tuple(node for node in ast.walk(self.tree) if isinstance(node, LOOKED_AT))

    @property
    def calls(self) -> Iterator[ast.Call]:
        return (node for node in self.nodes if isinstance(node, ast.Call))

    @property
    def functions(self) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
        return (node for node in self.nodes if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))

    @cached_property
    def prose(self) -> tuple[str, ...]:
        """Each docstring, and all comments together, each on one line."""
        homes = (
            node
            for node in self.nodes
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        )
        docstrings = [" ".join((ast.get_docstring(node) or "").split()) for node in homes]
        return *docstrings, " ".join(comment.removeprefix("# ") for comment in comments(self.text))

    @property
    def literals(self) -> Iterator[str]:
        """The texts in the code, which users read in errors, logs and settings; each on one line."""
        values = (node.value for node in self.nodes if isinstance(node, ast.Constant))
        return (" ".join(value.split()) for value in values if isinstance(value, str))

    @property
    def top(self) -> str:
        return self.path.split("/", maxsplit=1)[0]


def comments(text: str) -> Iterator[str]:
    """A tenth of the time that `tokenize` takes."""
    return (found["comment"] for found in TEXT_OR_COMMENT.finditer(text) if found["comment"])


def file_is_short(source: Source) -> Iterator[str]:
    lines, allowed = source.text.count("\n"), TEST_FILE_LINES_MAX if source.top == "tests" else FILE_LINES_MAX
    if lines > allowed and "Long because" not in source.docstring:
        yield f"{lines} lines, {allowed} allowed"


def functions_are_short(source: Source) -> Iterator[str]:
    for node in source.functions:
        lines = (node.end_lineno or node.lineno) - node.lineno + 1
        if lines > FUNCTION_LINES_MAX:
            yield f"{node.name}: {lines} lines, {FUNCTION_LINES_MAX} allowed"


def classes_are_short(source: Source) -> Iterator[str]:
    for node in source.nodes:
        if isinstance(node, ast.ClassDef) and (lines := (node.end_lineno or 0) - node.lineno + 1) > CLASS_LINES_MAX:
            docstring = " ".join((ast.get_docstring(node) or "").split())
            if not re.search(r"(^|[.)] )Long because \w", docstring):
                yield f"{node.name}: {lines} lines, {CLASS_LINES_MAX} allowed"


def module_is_named_after_an_idea(source: Source) -> Iterator[str]:
    for word in sorted(BANNED_WORDS & set(Path(source.path).stem.split("_"))):
        yield f"'{word}' names no idea"


def module_says_what_it_is(source: Source) -> Iterator[str]:
    lines = source.docstring.count("\n") + 1
    if not source.docstring:
        if source.text.strip():
            yield "no module docstring"
    elif source.text.count("\n") > BRIEF_FILE_LINES and source.top in CODE and not 3 <= lines <= 12:
        yield f"module docstring of {lines} lines, 3 to 12 wanted"


def tasks_are_named(source: Source) -> Iterator[str]:
    if source.top not in CODE:
        return
    for call in source.calls:
        is_task = isinstance(call.func, ast.Attribute) and call.func.attr == "create_task"
        if is_task and not any(word.arg == "name" for word in call.keywords):
            yield f"line {call.lineno}: a task without a name"


def no_test_sleeps_or_patches(source: Source) -> Iterator[str]:
    # A server that tests start may be slow on purpose; the test itself waits for what it wants to see.
    if not Path(source.path).name.startswith(("test_", "conftest")):
        return
    in_loop_time = "looptime" in source.text
    for call in source.calls:
        called = _dotted(call.func)
        if called == "time.sleep" or (called in {"asyncio.sleep", "anyio.sleep"} and not in_loop_time):
            yield f"line {call.lineno}: {called}; wait for a condition, or use loop time"
    for node in source.nodes:
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import | ast.ImportFrom) else []
        module = node.module or "" if isinstance(node, ast.ImportFrom) else ""
        if module.startswith("unittest") or any(name.startswith("unittest") for name in names):
            yield "unittest.mock; use the real thing or a fake that passes its contract"


def names_of_tests_are_sentences(source: Source) -> Iterator[str]:
    for node in source.functions:
        if node.name.startswith("test_") and len(node.name.split("_")) < 4:
            yield f"{node.name} is no sentence"


def error_codes_have_names(source: Source) -> Iterator[str]:
    # The examples are programs of their own, which know nothing of the agent.
    homes = ("agent/errors.py", "agent/rpc_codes.py")
    if source.top not in CODE or source.path in homes or source.path.startswith("agent/examples/"):
        return
    for node in source.nodes:
        match node:
            case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int(code))) if 32000 <= code <= 32999:
                yield f"line {node.lineno}: -{code}; its name is in agent.rpc_codes, or agent.errors"


def cited_pages_exist(source: Source) -> Iterator[str]:
    if source.top not in CODE:
        return
    # A comment may go on in the next line.
    text = re.sub(r"\s*\n\s*(# )?", " ", source.text)
    for page, title in re.findall(r"([\w./-]*\w\.md)\b(?:, \"([^\"]+)\")?", text):
        if not (ROOT / page).is_file():
            yield f"{page} is no page of the repository"
        elif title and not re.search(rf"^#+ {re.escape(title)}$", _text(page), re.MULTILINE):
            yield f"{page} has no section {title!r}"


def exceptions_to_lint_have_reasons(source: Source) -> Iterator[str]:
    above = ""
    for number, line in enumerate(source.text.splitlines(), start=1):
        found = re.search(r"# (noqa|type: ignore)\b(:\s*[A-Z]+\d+(,\s*[A-Z]+\d+)*|\[[\w, -]+\])?(?P<reason>.*)", line)
        if found and not re.search(r"\w{3,}", found["reason"]) and not above.lstrip().startswith("# "):
            yield f"line {number}: an ignore without its reason beside or above it"
        above = line


def finished_rooms_are_in_plain_english(source: Source) -> Iterator[str]:
    if source.top in FINISHED_ROOMS:
        for text in source.prose:
            yield from roundabout_clauses(text)


def names_of_tests_are_in_plain_english(source: Source) -> Iterator[str]:
    for node in source.functions:
        if node.name.startswith("test_"):
            yield from roundabout_clauses(node.name.replace("_", " "))


def texts_for_users_are_in_plain_english(source: Source) -> Iterator[str]:
    if source.top in CODE:
        for text in source.literals:
            yield from roundabout_clauses(text)


def roundabout_clauses(text: str) -> Iterator[str]:
    text = re.sub(r"`[^`]+`", "", text)
    for found in ROUNDABOUT.finditer(text):
        yield f"{found[0]!r} in: ... {text[max(0, found.start() - 40) : found.end() + 40]} ..."


def finished_rooms_cite_what_exists(source: Source) -> Iterator[str]:
    """Pages by their path from the root, modules by their dotted name, with or without one thing in them."""
    if source.top in FINISHED_ROOMS:
        for text in source.prose:
            for page in re.findall(r"[\w/.-]+\.md\b", text):
                if not _exists(page):
                    yield f"{page} is no page of the repository"
            for dotted in re.findall(r"\b(?:agent|discovery)(?:\.[A-Za-z_]\w*)+", text):
                if not _is_module(dotted):
                    yield f"{dotted} is no module"


@cache
def _exists(page: str) -> bool:
    return (ROOT / page).exists()


@cache
def _is_module(dotted: str) -> bool:
    module = ROOT.joinpath(*dotted.split("."))
    return module.is_dir() or any(path.with_suffix(".py").is_file() for path in (module, module.parent))


Rule = Callable[[Source], Iterator[str]]
RULES: tuple[Rule, ...] = (
    file_is_short,
    functions_are_short,
    classes_are_short,
    module_is_named_after_an_idea,
    module_says_what_it_is,
    tasks_are_named,
    no_test_sleeps_or_patches,
    names_of_tests_are_sentences,
    error_codes_have_names,
    cited_pages_exist,
    exceptions_to_lint_have_reasons,
    finished_rooms_are_in_plain_english,
    names_of_tests_are_in_plain_english,
    texts_for_users_are_in_plain_english,
    finished_rooms_cite_what_exists,
)
BAD_EXAMPLES: dict[str, Source] = {
    "file_is_short": Source.of("agent/a.py", "x = 1\n" * 451),
    "functions_are_short": Source.of("agent/a.py", "def f():\n" + "    x = 1\n" * 70),
    "classes_are_short": Source.of("agent/a.py", 'class A:\n    """Belong because."""\n' + "    x = 1\n" * 200),
    "module_is_named_after_an_idea": Source.of("agent/link_utils.py", ""),
    "module_says_what_it_is": Source.of("agent/a.py", '"""Too brief."""\n' + "x = 1\n" * 80),
    "tasks_are_named": Source.of("agent/a.py", "async def f(group):\n    group.create_task(g())\n"),
    "no_test_sleeps_or_patches": Source.of("tests/test_a.py", "import time\ntime." + "sleep(1)\n"),
    "names_of_tests_are_sentences": Source.of("tests/a.py", "def test_it(): ...\n"),
    "error_codes_have_names": Source.of("agent/a.py", "raise RpcError(-32602, 'Unknown')"),
    "cited_pages_exist": Source.of("agent/a.py", "x = 1  # See no-such-page.md.\n"),
    "exceptions_to_lint_have_reasons": Source.of("agent/a.py", "x = 1  # " + "noqa: E501\n"),
    "finished_rooms_are_in_plain_english": Source.of("discovery/a.py", "# The one that is\n# told.\nx = 1\n"),
    "names_of_tests_are_in_plain_english": Source.of("tests/a.py", "def test_a_call_of_nobody_ends(): ...\n"),
    "texts_for_users_are_in_plain_english": Source.of("agent/a.py", "x = f'{1}: who' 'ever writes it'\n"),
    "finished_rooms_cite_what_exists": Source.of("discovery/a.py", "# See lost.md.\nx = 1\n"),
}


@pytest.fixture(scope="module")
def sources() -> list[Source]:
    """All files of ours, read once and dropped after these tests."""
    paths = [path for path in _committed() if path.endswith(".py") and path.split("/", maxsplit=1)[0] in PYTHON]
    assert paths
    # The garbage collector would look through the growing trees again and again, and they have no cycles.
    gc.disable()
    try:
        found = [Source.of(path, _text(path)) for path in paths]
        assert all(source.nodes for source in found if source.text)
        return found
    finally:
        gc.freeze()
        gc.enable()


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_every_python_file_keeps_the_rule(rule: Rule, sources: list[Source]) -> None:
    complaints = [f"{source.path}: {text}" for source in sources for text in rule(source)]
    assert not complaints, "\n".join(["", *complaints])


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_every_rule_fires_on_its_bad_example(rule: Rule) -> None:
    assert list(rule(BAD_EXAMPLES[rule.__name__]))


def test_comments_are_those_that_pythons_own_tokenizer_finds() -> None:
    text = Path(__file__).read_text()
    tokens = tokenize.generate_tokens(io.StringIO(text).readline)
    assert list(comments(text)) == [token.string for token in tokens if token.type == tokenize.COMMENT]


def test_a_cited_section_has_to_be_in_its_page() -> None:
    text = '# docs/architecture.md,\n# "Names"\n# docs/architecture.md, "No such section"\n'
    assert list(cited_pages_exist(Source.of("agent/a.py", text))) == [
        "docs/architecture.md has no section 'No such section'"
    ]


def test_consul_folder_holds_no_python_so_that_it_never_shadows_the_library() -> None:
    assert not list((ROOT / "consul").rglob("*.py"))


def test_no_committed_file_names_a_machine_a_registry_or_unfinished_work() -> None:
    found = []
    for path in _committed():
        text = _text(path)
        found += [f"{path}: {match[0]}" for pattern in (MACHINE, UNFINISHED) for match in pattern.finditer(text)]
    assert not found, "\n".join(["", *found])


def test_patterns_of_what_must_not_be_committed_find_it() -> None:
    assert MACHINE.search("see /" + "work/main")
    assert MACHINE.search("https://pypi." + "org/simple")
    assert not MACHINE.search("docs/framework/main.md")
    assert UNFINISHED.search("# TO" + "DO: later")


def test_the_documentation_is_in_plain_english() -> None:
    found = []
    for page in [*_documentation(), ROOT / "CHANGELOG.md"]:
        text = " ".join(page.read_text().split())
        found += [f"{page.relative_to(ROOT)}: {clause}" for clause in roundabout_clauses(text)]
    assert not found, "\n".join(["", *found])


def test_every_path_that_the_documentation_names_exists() -> None:
    missing = []
    for page in _documentation():
        text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
        named = {
            path for path in re.findall(r"\]\(([^)#:\s]+)(?:#[^)]*)?\)", text) if not (page.parent / path).exists()
        }
        tops = "|".join((*PYTHON, "consul", "deploy", "docker", "docs", "monitoring"))
        quoted = {path.rstrip("/") for path in re.findall(rf"`((?:{tops})/[\w./-]*)`", text)}
        named |= {path for path in quoted if not (ROOT / path).exists()}
        missing += [f"{page.relative_to(ROOT)}: {path}" for path in sorted(named)]
    assert not missing, "\n".join(["", *missing])


def test_every_metric_is_documented() -> None:
    declared = _metric_names()
    assert declared, "agent/metrics.py declares no metric that this test can see"
    text = "\n".join(page.read_text() for page in _documentation())
    assert not [name for name in sorted(declared) if not re.search(rf"\b{name}(_total|_bucket|_info)?\b", text)]


def test_every_setting_is_documented_and_no_other() -> None:
    text = "\n".join(page.read_text() for page in _documentation())
    known = {setting.env for setting in SETTINGS}
    named = set(re.findall(r"\bMESH_[A-Z][A-Z_]*[A-Z]\b", text))
    assert not [name for name in sorted(known) if not re.search(rf"\b{name}\b", text)], "not documented"
    others = {"MESH_URL", "MESH_BENCH_OTHERS"}  # The command line's own, for talking to a node; the benchmarks' own.
    assert not sorted(named - known - others), "documented, but unknown"


def _dotted(called: ast.expr) -> str:
    """What is called, as one writes it: `asyncio.sleep`; nothing when it is no name of one module."""
    match called:
        case ast.Attribute(value=ast.Name(id=module), attr=name):
            return f"{module}.{name}"
    return ""


def _documentation() -> list[Path]:
    pages = (*sorted(ROOT.glob("README*.md")), ROOT / "CONTRIBUTING.md", ROOT / "monitoring/README.md")
    return [*pages, *sorted((ROOT / "docs").rglob("*.md"))]


def _metric_names() -> set[str]:
    found = set()
    for path in ("agent/metrics.py",):
        strings = [node.value for node in ast.walk(ast.parse(_text(path))) if isinstance(node, ast.Constant)]
        found |= {text for text in strings if isinstance(text, str) and re.fullmatch(r"mesh(_[a-z0-9]+)+", text)}
    return found


def _committed() -> list[str]:
    """Paths that git has or would add; without git (an unpacked archive) those that do not look made."""
    listing = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if listing.returncode == 0:
        return sorted(path for path in set(listing.stdout.splitlines()) if (ROOT / path).is_file())
    return sorted(
        str(path.relative_to(ROOT))
        for path in ROOT.rglob("*")
        if path.is_file() and not re.search(r"(^|/)(\.|__pycache__|build|dist)", str(path.relative_to(ROOT)))
    )


def _text(path: str) -> str:
    return (ROOT / path).read_text(errors="replace")
