#!/usr/bin/env bash
# Finding: @playwright/mcp, bound to 127.0.0.1, refuses whoever asks for it at 127.0.0.1, and names localhost instead.
#
# Project:    @playwright/mcp 0.0.83 (npm)
# What:       playwright-mcp --host 127.0.0.1, and the same with --allowed-hosts 127.0.0.1, and 127.0.0.1 with the port;
#             each is sent initialize at the address that it listens on, and at localhost.
# Expected:   answered at 127.0.0.1 by all three: its help says that it may be served from the host that it is bound to,
#             unless --allowed-hosts says otherwise.
# Seen:       403 "Access is only allowed at localhost:PORT" without --allowed-hosts, which takes the address for that name;
#             403 as well with the host alone, which --help asks for: an entry counts with its port only.
# So what:    a catalog, a balancer and a health check know a server by its address: all calls are refused while it is well,
#             with a status that clients take for a missing right.
# Way around: --allowed-hosts HOST:PORT for each name and address that it is asked for at.
#
# Run by hand, with Node 20 or later and curl: it downloads public packages, without a browser, into a temporary folder.
# Exit status 0: as described above. 1: the behaviour has changed. 2: it could not be tried.
set -euo pipefail
folder=$(mktemp -d)
pid=
trap '[ -z "$pid" ] || { kill "$pid"; wait "$pid" || true; } 2>/dev/null; rm -rf "$folder"' EXIT
cd "$folder"
npm init -y >/dev/null
PLAYWRIGHT_SKIP_BROWSER_DOWNLOAD=1 npm install --silent --no-audit --no-fund @playwright/mcp@0.0.83 >/dev/null \
	|| { echo "could not be tried: no registry gave the package"; exit 2; }
hello='{"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": {"protocolVersion": "2025-11-25",
	"capabilities": {}, "clientInfo": {"name": "c", "version": "1"}}}'
ask() { # the host
	curl -s -o answer -w '%{http_code}' -H 'Content-Type: application/json' -H 'Accept: application/json, text/event-stream' \
		-d "$hello" "http://$1:$port/mcp"
}
try() { # what follows --host 127.0.0.1, in which PORT stands for the port
	port=$(python3 -c 'import socket; print(socket.create_server(("127.0.0.1", 0)).getsockname()[1])')
	# shellcheck disable=SC2086 # It is words.
	node node_modules/@playwright/mcp/cli.js --host 127.0.0.1 --port "$port" ${1//PORT/$port} >serve.log 2>&1 &
	pid=$!
	for _ in $(seq 150); do
		grep -q Listening serve.log && break
		sleep 0.2
	done
	grep -q Listening serve.log || { echo "could not be tried: the server did not start"; exit 2; }
	echo "--host 127.0.0.1${1:+ $1}: at localhost $(ask localhost), at 127.0.0.1 $(ask 127.0.0.1)" >>seen
	grep -o "Access is only allowed at [a-z0-9.]*" answer >>seen || true
	{ kill "$pid"; wait "$pid" || true; } 2>/dev/null
	pid=
}
try ""
try "--allowed-hosts 127.0.0.1"
try "--allowed-hosts 127.0.0.1:PORT"
cat seen
[ "$(cat seen)" = "--host 127.0.0.1: at localhost 200, at 127.0.0.1 403
Access is only allowed at localhost
--host 127.0.0.1 --allowed-hosts 127.0.0.1: at localhost 403, at 127.0.0.1 403
Access is only allowed at 127.0.0.1
--host 127.0.0.1 --allowed-hosts 127.0.0.1:PORT: at localhost 403, at 127.0.0.1 200" ] \
	|| { echo "The behaviour has changed."; exit 1; }
