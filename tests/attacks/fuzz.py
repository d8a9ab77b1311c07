"""Runs every parser under atheris, which follows the code to new input: `python -m tests.attacks.fuzz SECONDS [SEED]`.

Not a part of any test run, and atheris is not among this project's packages: install it into an environment of its own,
with this project's packages on its path. The one rule: the first fault ends the run with its input in a file.
"""

import sys
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["agent", "discovery"]):
    from tests.attacks.parsers import PARSERS

_PARSERS = list(PARSERS.values())


def one_input(data: bytes) -> None:
    """The first byte chooses the parser, the rest is for it."""
    if data:
        _PARSERS[data[0] % len(_PARSERS)](data[1:])


def main() -> None:
    """Fuzz for so many seconds, from the examples of the repository's own words."""
    seconds, seed = int(sys.argv[1]), sys.argv[2] if len(sys.argv) > 2 else "1"
    corpus = Path("corpus")
    corpus.mkdir(exist_ok=True)
    options = [f"-max_total_time={seconds}", f"-seed={seed}", "-max_len=4096", "-print_final_stats=1", "-timeout=10"]
    atheris.Setup([sys.argv[0], *options, str(corpus)], one_input)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
