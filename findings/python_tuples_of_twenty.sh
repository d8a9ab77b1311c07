#!/usr/bin/env bash
# Finding: CPython 3.11 keeps 2,000 tuples of 20 members that were freed, and never uses one of them again.
#
# Project:    CPython 3.11, Objects/tupleobject.c, the free lists of tuples
# What:       3,000 tuples of 20 members are made and freed, one after the other; sys._debugmallocstats() tells what the
#             interpreter keeps. The same with 19 members.
# Expected:   one is kept, which each next one is made of.
# Seen:       one of 19; 2,000 of 20: a tuple of 20 is put aside when it is freed, and a new one is never taken from there.
# So what:    0.4 MB of a program that makes some, as every call with 20 keyword arguments does: dataclasses.replace() of
#             a dataclass with 20 fields, for instance.
# Way around: have 19 fields, or 21. A full garbage collection frees what is kept.
#
# Run by hand: it downloads nothing. Exit status 0: as described above. 1: the behaviour has changed.
set -euo pipefail
seen=$(python3.11 - 2>&1 <<'PY'
import gc
import sys

gc.collect()
for size in (19, 20):
    for _ in range(3000):
        tuple([None] * size)
sys._debugmallocstats()
PY
)
kept() { echo "$seen" | sed -n "s/^ *\([0-9]*\) free $1-sized PyTupleObjects.*/\1/p"; }
echo "kept of 19: $(kept 19), of 20: $(kept 20)"
[ "$(kept 19)" -lt 100 ] && [ "$(kept 20)" = 2000 ] || { echo "The behaviour has changed."; exit 1; }
