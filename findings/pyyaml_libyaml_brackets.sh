#!/usr/bin/env bash
# Finding: PyYAML's loaders over libyaml crash the process at a document of many opening brackets.
#
# Project:    PyYAML 6.0.3, from its wheel, which brings libyaml along
# What:       yaml.load("[" * 100_000, Loader=yaml.CSafeLoader). Nodes in nodes are composed by a C function that calls
#             itself, without a limit of its own and without the interpreter's.
# Expected:   an exception, as of yaml.SafeLoader, which raises RecursionError for the same text.
# Seen:       a segmentation fault; 10,000 brackets are still refused with a ParserError.
# So what:    a program that takes the faster loader can be ended by a damaged or hostile file of 100 KB.
# Way around: yaml.SafeLoader, which is eight times slower (0.17 s for a list of 5,000 lines), or a limit on nesting before.
#
# Run by hand: it downloads one small public package into a temporary folder. Exit status 0: as described above. 1: the
# behaviour has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check pyyaml==6.0.3
cat > nested.py <<'PY'
import sys

import yaml

loader, depth = getattr(yaml, sys.argv[1]), int(sys.argv[2])
try:
    yaml.load("[" * depth, Loader=loader)
except Exception as exc:
    print(type(exc).__name__)
PY
tried() { (venv/bin/python nested.py "$1" "$2" || echo "ended by signal $(($? - 128))") 2>/dev/null; }
seen="SafeLoader, 100000: $(tried SafeLoader 100000)
CSafeLoader, 10000: $(tried CSafeLoader 10000)
CSafeLoader, 100000: $(tried CSafeLoader 100000)"
echo "$seen"
[ "$seen" = 'SafeLoader, 100000: RecursionError
CSafeLoader, 10000: ParserError
CSafeLoader, 100000: ended by signal 11' ] || { echo "The behaviour has changed."; exit 1; }
