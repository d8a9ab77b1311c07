#!/usr/bin/env bash
# Finding: pip before 23.3 refuses a complete lock with hashes as soon as `name[extra]` has a newer release than the pin.
#
# Project:    pip (seen in 23.0.1, which Debian 12 ships, and 23.2.1, which Python 3.11 brings; not in 23.3 and later)
# What:       `pip install --require-hashes -r LOCK` where LOCK pins NAME==1 and another entry wants NAME[extra]>=0.
# Expected:   NAME==1 satisfies NAME[extra] too, so everything that is installed is pinned and hashed.
# Seen:       pip resolves NAME[extra] apart from the pinned NAME, takes NAME's newest release, and stops:
#             "In --require-hashes mode, all requirements must have their versions pinned with ==."
# So what:    a lock stops working on the day when such a package is released, on every machine with such a pip.
# Way around: install a complete lock with --no-deps, and run `pip check` afterwards.
#
# Run by hand: it downloads small public packages and three pips into a temporary folder. pytest-cov 4.0.0 wants
# coverage[toml]>=5.2.1; coverage 6.5.0 is pinned, and far newer ones are out. Exit status 0: as described above.
# 1: the behaviour has changed. 2: it could not be tried (no registry).
set -euo pipefail

PYTHON=${PYTHON:-python3}
OLD=(23.0.1 23.2.1)
NEW=(23.3 23.3.2)
REFUSAL="all requirements must have their versions pinned with =="
PINS=(pytest-cov==4.0.0 coverage==6.5.0 tomli==2.0.1 pytest==7.2.0 attrs==22.1.0 iniconfig==1.1.1 packaging==21.3
	pyparsing==3.0.9 pluggy==1.0.0)

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_INPUT=1

# The lock holds the hashes of the files that this registry gives to this interpreter: it is complete here.
"$PYTHON" -m venv "$folder/venv"
python=$folder/venv/bin/python
"$python" -m pip download --quiet --no-deps --only-binary :all: --dest "$folder/files" "${PINS[@]}" \
	|| { echo "could not be tried: no registry gave the packages"; exit 2; }
for pin in "${PINS[@]}"; do
	name=${pin%%==*}
	digest=$(sha256sum "$folder/files/${name//-/_}"-*.whl | cut -d ' ' -f 1)
	echo "$pin --hash=sha256:$digest"
done >"$folder/lock.txt"

changed=0
# try VERSION WANTED RULE...: what does this pip do with the lock?
try() {
	local version=$1 wanted=$2 seen output
	shift 2
	"$python" -m pip install --quiet --no-deps "pip==$version" \
		|| { echo "could not be tried: no registry gave pip $version"; exit 2; }
	if output=$("$python" -m pip install --dry-run --require-hashes "$@" --requirement "$folder/lock.txt" 2>&1); then
		seen=installs
	elif grep -q "$REFUSAL" <<<"$output"; then
		seen=refuses
	else
		seen=fails
	fi
	echo "pip $version ${*:-with its resolver}: $seen (wanted: $wanted)"
	# Without the registry's address and the folder.
	{ grep -A 1 -e "$REFUSAL" -e '^ERROR' <<<"$output" || true; } | sed -E 's/^/    /; s#from [a-z]+://[^ ]*/#from #; s#-r /.*/##'
	[[ $seen == "$wanted" ]] || changed=1
}

"$python" --version
for version in "${OLD[@]}"; do
	try "$version" refuses
	try "$version" installs --no-deps
done
for version in "${NEW[@]}"; do
	try "$version" installs
done
if ((changed)); then
	echo "The behaviour is not the one described: look again."
	exit 1
fi
echo "As described."
