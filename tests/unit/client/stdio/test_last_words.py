"""Which lines of stderr tell why a child failed: real output of launchers and interpreters, and the bounds."""

import subprocess
import sys

import pytest

from agent.client.stdio.last_words import CHARS_MAX, last_words

NPM = """npm error code E404
npm error 404 Not Found - GET https://npm.test/nonexistent
npm error 404
npm error 404  The requested resource 'nonexistent@*' could not be found or you do not have permission to access it.
npm error 404
npm error 404 Note that you can also install from a
npm error 404 tarball, folder, http url, or git url.
npm error A complete log of this run can be found in: /home/me/.npm/_logs/2026-11-28T20_38_56_992Z-debug-0.log"""
NPM_8 = """npm ERR! code ENOTFOUND
npm ERR! network request to https://npm.test/x failed, reason: getaddrinfo ENOTFOUND npm.test

npm ERR! A complete log of this run can be found in:
npm ERR!     /home/me/.npm/_logs/2026-11-28T20_38_56_992Z-debug-0.log"""
UV = """error: No solution found when resolving tool dependencies
  cause: Because nonexistent was not found in the package registry, your requirements are unsatisfiable.
hint: An index URL could not be queried"""
UV_OLDER = """  \u00d7 No solution found when resolving tool dependencies:
  ╰─▶ Because nonexistent was not found in the package registry, your requirements are unsatisfiable."""
UV_NO_SUCH = """Installed 1 package in 6ms
An executable named `idna-nope` is not provided by package `idna`.
The following executables are available:
- idna
"""
NODE = """node:internal/modules/cjs/loader:1210
  throw err;
  ^

Error: Cannot find module './nope'
Require stack:
- /srv/a.js
    at Module._resolveFilename (node:internal/modules/cjs/loader:1207:15)
    at Function.executeUserEntryPoint [as runMain] (node:internal/modules/run_main:164:12) {
  code: 'MODULE_NOT_FOUND',
  requireStack: [ '/srv/a.js' ]
}

Node.js v20.20.2"""
SINCE = "not found in the package registry, your requirements are unsatisfiable."


@pytest.mark.parametrize(
    ("stderr", "told"),
    [
        (
            NPM,
            (
                "code E404; Not Found - GET https://npm.test/nonexistent; The requested resource 'nonexistent@*' "
                "could not be found or you do not have permission to access it."
            ),
        ),
        (
            NPM_8,
            ("code ENOTFOUND; network request to https://npm.test/x failed, reason: getaddrinfo ENOTFOUND npm.test"),
        ),
        (UV, f"error: No solution found when resolving tool dependencies; cause: Because nonexistent was {SINCE}"),
        (UV_OLDER, f"No solution found when resolving tool dependencies:; Because nonexistent was {SINCE}"),
        (
            UV_NO_SUCH,
            (
                "An executable named `idna-nope` is not provided by package `idna`.; "
                "The following executables are available:; - idna"
            ),
        ),
        (NODE, "Error: Cannot find module './nope'; Require stack:; - /srv/a.js"),
        ("starting\n\nout of cheese\n", "starting; out of cheese"),
        ("retrying\nretrying\nretrying\nno cheese", "retrying; no cheese"),
        ("one\ntwo\nthree\nfour", "two; three; four"),
        ("", ""),
        ("   \n", ""),
    ],
)
def test_the_reason_is_found_above_hints_and_paths_of_logs(stderr: str, told: str) -> None:
    assert last_words(stderr.splitlines()) == told


@pytest.mark.parametrize(
    ("program", "told"),
    [
        ("def f(): import no_such_module\nf()", "ModuleNotFoundError: No module named 'no_such_module'"),
        ("try: 1/0\nexcept Exception as e: raise KeyError('port') from e", "division by zero; KeyError: 'port'"),
        ("raise ExceptionGroup('unhandled', [ValueError('no API key')])", "ValueError: no API key"),
    ],
)
def test_a_real_traceback_is_shown_by_its_exceptions_without_frames(program: str, told: str) -> None:
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    words = last_words(done.stderr.splitlines())
    assert words.endswith(told)
    assert "line 1" not in words
    assert "Traceback" not in words


def test_a_traceback_whose_end_alone_was_kept_is_shown_by_its_exception() -> None:
    assert (
        last_words(['  File "a.py", line 3, in f', "    g()", "    ^^^", "OSError: port taken"])
        == "OSError: port taken"
    )


def test_a_reason_on_stdout_is_shown_where_stderr_does_not_tell() -> None:
    printed = ["Missing GITHUB_TOKEN environment variable"]
    assert last_words([], printed) == printed[0]
    assert last_words(["npm notice", "hint: try again"], printed) == printed[0]
    assert last_words(["OSError: port taken"], printed) == "OSError: port taken"


def test_where_only_hints_were_written_the_last_of_them_is_shown() -> None:
    assert last_words(["hint: try again", "  "]) == "hint: try again"


def test_a_long_line_is_cut_and_earlier_ones_make_room_for_the_last() -> None:
    assert last_words(["x" * 200, "y" * 200]) == "y" * 200
    cut = last_words(["z" * 1000])
    assert len(cut) == CHARS_MAX
    assert cut.endswith("…")
