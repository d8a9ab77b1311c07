#!/usr/bin/env bash
# Finding: with tenacity's "retry unless it is this exception", a cancelled task goes on and a time-out does not hold.
#
# Project:    tenacity 9.2.1 (PyPI)
# What:       @retry(retry=retry_if_not_exception_type(ValueError), stop=stop_after_attempt(3)) on a coroutine. Its
#             task is cancelled during the first attempt; then it runs under asyncio.timeout(0.1).
# Expected:   the task is cancelled; TimeoutError. So it is with retry's default, retry_if_exception_type().
# Seen:       CancelledError is no ValueError, so it is retried: the cancelled task makes its second attempt and
#             returns its result. asyncio.timeout raises no TimeoutError, and the second attempt may take as long as it
#             likes. retry_if_exception(predicate) does the same; the documentation of neither mentions it.
# So what:    a service that retries everything but its callers' mistakes does not stop when told, and repeats calls
#             that their callers have given up.
# Way around: name what to retry, or add CancelledError to what is not.
#
# Run by hand: it downloads a small public package into a temporary folder. Exit status 0: as described above. 1: the
# behaviour has changed. 2: it could not be tried.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv packages
packages/bin/python -m pip install --quiet --disable-pip-version-check tenacity==9.2.1 \
	|| { echo "could not be tried: no registry gave the package"; exit 2; }
cat > cancel.py <<'PY'
import asyncio

import tenacity

RULES = {
    "default": tenacity.retry_if_exception_type(),
    "not ValueError": tenacity.retry_if_not_exception_type(ValueError),
    "predicate": tenacity.retry_if_exception(lambda error: not isinstance(error, ValueError)),
    "not ValueError, not cancelled": tenacity.retry_if_not_exception_type((ValueError, asyncio.CancelledError)),
}


def work(rule, started):
    @tenacity.retry(retry=rule, stop=tenacity.stop_after_attempt(3))
    async def attempt():
        started.append(asyncio.get_running_loop().time())
        await asyncio.sleep(5 if len(started) == 1 else 0.3)
        return "result"

    return attempt()


async def cancelled(rule):
    started = []
    task = asyncio.create_task(work(rule, started))
    while not started:
        await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait([task])
    return f"{'cancelled' if task.cancelled() else task.result()} after {len(started)}"


async def timed_out(rule):
    started = []
    try:
        async with asyncio.timeout(0.1):
            outcome = await work(rule, started)
    except TimeoutError:
        outcome = "TimeoutError"
    return f"{outcome} after {len(started)}"


async def main():
    for name, rule in RULES.items():
        print(f"{name}: cancelled task: {await cancelled(rule)}; time-out: {await timed_out(rule)}")


asyncio.run(main())
PY
seen=$(packages/bin/python cancel.py)
echo "$seen"
[ "$seen" = "default: cancelled task: cancelled after 1; time-out: TimeoutError after 1
not ValueError: cancelled task: result after 2; time-out: result after 2
predicate: cancelled task: result after 2; time-out: result after 2
not ValueError, not cancelled: cancelled task: cancelled after 1; time-out: TimeoutError after 1" ] \
	|| { echo "The behaviour has changed."; exit 1; }
