#!/usr/bin/env bash
# Finding: Prometheus with a Consul token that may read services finds none of them, until it is told the datacenter.
#
# Project:    Prometheus 3.5.0, its package discovery/consul, with Consul 1.8.7 (1.21.4 does the same)
# What:       consul_sd_configs with `services: [web]` and a token of `service_prefix "" { policy = "read" }` and
#             `node_prefix "" { policy = "read" }`, which is all that Consul wants for /v1/health/service/web.
# Expected:   one target, the registered instance of web.
# Seen:       no target, for ever: without `datacenter` Prometheus asks /v1/agent/self first, which wants agent:read, and
#             does nothing else while that is 403 ("Error retrieving datacenter name"). With `datacenter: dc1`: one target.
# So what:    a token with the least rights leaves Prometheus without targets, and no alert fires for targets that it
#             never had.
# Way around: name the datacenter, or give the token agent:read, which shows the agent's whole configuration.
#
# Run by hand, on Debian with Go: it downloads into a temporary folder and installs nothing; one or two minutes. Exit
# status 0: as described above. 1: the behaviour has changed. 2: it could not be tried.
set -euo pipefail
CONSUL=1.8.7+dfsg1-2+b3
folder=$(mktemp -d)
pid=
trap '[ -z "$pid" ] || { kill "$pid"; wait "$pid" || true; } 2>/dev/null; chmod -R u+w "$folder"; rm -rf "$folder"' EXIT
cd "$folder"

# Consul: of this machine's own mirror, from the older suite that had it.
mirror=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' | grep -v security | head -1)
mkdir -p state/lists/partial cache/archives/partial
echo "deb $mirror bullseye main" >sources
apt=(apt-get -qq -o Dir::Etc::sourcelist="$folder/sources" -o Dir::Etc::sourceparts=- -o Dir::State="$folder/state"
	-o Dir::State::status=/dev/null -o Dir::Cache="$folder/cache" -o APT::Sandbox::User=root
	-o Acquire::Check-Valid-Until=false -o Acquire::Languages=none)
"${apt[@]}" update >/dev/null 2>&1 && "${apt[@]}" download "consul=$CONSUL" >/dev/null 2>&1 \
	|| { echo "could not be tried: the mirror gave no Consul"; exit 2; }
dpkg -x consul_*.deb .

mkdir sd && cd sd
cat >go.mod <<'MOD'
module seen
go 1.24
MOD
cat >main.go <<'GO'
package main

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/common/config"
	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/discovery"
	"github.com/prometheus/prometheus/discovery/consul"
	"github.com/prometheus/prometheus/discovery/targetgroup"
)

// Prints how many targets Prometheus' own discovery finds for service web within ten seconds, and what it logs.
func main() {
	conf := consul.DefaultSDConfig
	conf.Server, conf.Services, conf.RefreshInterval = os.Args[1], []string{"web"}, model.Duration(time.Second)
	conf.HTTPClientConfig.Authorization = &config.Authorization{Type: "Bearer", Credentials: config.Secret(os.Args[2])}
	if len(os.Args) > 3 {
		conf.Datacenter = os.Args[3]
	}
	var said strings.Builder
	registry := prometheus.NewRegistry()
	metrics := conf.NewDiscovererMetrics(registry, discovery.NewRefreshMetrics(registry))
	options := discovery.DiscovererOptions{Logger: slog.New(slog.NewTextHandler(&said, nil)), Metrics: metrics}
	discoverer, err := conf.NewDiscoverer(options)
	if err != nil {
		panic(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	groups, found := make(chan []*targetgroup.Group), 0
	go discoverer.Run(ctx, groups)
	for ctx.Err() == nil && found == 0 {
		select {
		case group := <-groups:
			for _, one := range group {
				found += len(one.Targets)
			}
		case <-ctx.Done():
		}
	}
	why := "nothing"
	if strings.Contains(said.String(), "Error retrieving datacenter name") {
		why = "Error retrieving datacenter name"
	}
	fmt.Printf("%d targets; logged: %s\n", found, why)
}
GO
export GOFLAGS=-mod=mod
{ go get github.com/prometheus/prometheus@v0.305.0 && go build -o ../sd-of-prometheus .; } >build.log 2>&1 \
	|| { echo "could not be tried: Go built no discovery"; exit 2; }
cd ..

read -r http server lan wan < <(python3 -c '
import socket
open_ones = [socket.create_server(("127.0.0.1", 0)) for _ in range(4)]
print(*(one.getsockname()[1] for one in open_ones))')
export CONSUL_HTTP_ADDR=127.0.0.1:$http CONSUL_HTTP_TOKEN
CONSUL_HTTP_TOKEN=$(python3 -c 'import uuid; print(uuid.uuid4())')
cat >consul.json <<JSON
{"acl": {"enabled": true, "default_policy": "deny", "tokens": {"master": "$CONSUL_HTTP_TOKEN"}}, "bind_addr": "127.0.0.1",
 "ports": {"http": $http, "server": $server, "serf_lan": $lan, "serf_wan": $wan, "dns": -1, "grpc": -1}}
JSON
usr/bin/consul agent -dev -config-file=consul.json >consul.log 2>&1 &
pid=$!
rules='service_prefix "" { policy = "read" } node_prefix "" { policy = "read" }'
for _ in $(seq 100); do
	usr/bin/consul acl policy create -name reads -rules "$rules" >/dev/null 2>&1 && break
	sleep 0.2
done
secret=$(usr/bin/consul acl token create -policy-name reads | sed -n 's/^SecretID: *//p')
echo '{"service": {"name": "web", "port": 80, "address": "127.0.0.1"}}' >web.json
usr/bin/consul services register web.json >/dev/null

usr/bin/consul version | head -1
without=$(env -u CONSUL_HTTP_TOKEN ./sd-of-prometheus "127.0.0.1:$http" "$secret")
with=$(env -u CONSUL_HTTP_TOKEN ./sd-of-prometheus "127.0.0.1:$http" "$secret" dc1)
echo "without a datacenter: $without"
echo "with datacenter dc1: $with"
[[ $without == "0 targets; logged: Error retrieving datacenter name" && $with == "1 targets; logged: nothing" ]] \
	|| { echo "The behaviour is not the one described: look again."; exit 1; }
echo "As described."
