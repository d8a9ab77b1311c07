"""The lines of an `envFile`: quotes, comments, and what is no assignment."""

import pytest

from agent.config.env_file import parse_env_file


@pytest.mark.parametrize(
    ("line", "value"),
    [
        ("K=plain value  # why", "plain value"),
        ("K=a#b", "a#b"),
        ("  export K = spaced ", "spaced"),
        ("K=", ""),
        ("K='single # \\n' # why", "single # \\n"),
        ('K="double # \\n \\"q\\" \\\\" # why', 'double # \n "q" \\'),
        ("K=a=b=c", "a=b=c"),
        ("K=$HOME ${HOME}", "$HOME ${HOME}"),
        ("\ufeffK=marked", "marked"),
        ("K=first\nK=last", "last"),
    ],
)
def test_value_of_a_line_is_read_as_docker_and_shells_do(line: str, value: str) -> None:
    assert parse_env_file(f"{line}\n# comment\n\n") == ({"K": value}, ())


def test_lines_that_are_no_assignments_are_numbered() -> None:
    assert parse_env_file("A=1\nB\n=2\n3C=3\nD=\0\n") == ({"A": "1"}, (2, 3, 4, 5))
