"""Every setting once: its names, its default, its unit and what one trades when changing it.

Read by `agent.config.load` (loading), `agent.cli.parser` (flags) and the test that holds docs/settings.md to it. The
one rule: a setting that is not in this table does not exist, and the order here is the order everywhere.

Long because a table in two files has two orders.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from agent.config.endpoint import parse_token
from agent.config.values import (
    one_of,
    parse_consul_wait,
    parse_count,
    parse_datacenters,
    parse_dns_names,
    parse_dns_servers,
    parse_flag,
    parse_globs,
    parse_host,
    parse_hosts,
    parse_name,
    parse_name_len,
    parse_networks,
    parse_origins,
    parse_path,
    parse_patterns,
    parse_peers,
    parse_port,
    parse_public_url,
    parse_scope,
    parse_seconds,
    parse_service_name,
    parse_service_nodes,
    parse_weight,
    parse_workers,
)


@dataclass(frozen=True, slots=True)
class Setting:
    """One setting. `default` is text like a user's; None stands for "not set", which `unset_means` explains."""

    name: str
    parse: Callable[[str], Any]
    default: str | None
    about: str
    unset_means: str = ""
    secret: bool = False
    variable: str = ""

    @property
    def env(self) -> str:
        """The environment variable."""
        return self.variable or f"MESH_{self.name.upper()}"

    @property
    def flag(self) -> str:
        """The command line's flag; secrets have none, because every user of the machine can read a command line."""
        return "" if self.secret else f"--{self.name.replace('_', '-')}"


SETTINGS: tuple[Setting, ...] = (
    Setting(
        "config_file",
        parse_path,
        None,
        "A TOML file with settings: the lower-case names of this table at its top level. It must not be writable by"
        " others when it holds a token.",
        unset_means="no file",
    ),
    Setting(
        "host",
        parse_host,
        "127.0.0.1",
        "The address to listen on. Anything but loopback lets other machines in, and is refused without a token.",
        variable="HOST",
    ),
    Setting(
        "port",
        parse_port,
        "8000",
        "The TCP port to listen on. Left alone, a busy 8000 becomes the next free port; a port that you set is used or"
        " the start is refused.",
        variable="PORT",
    ),
    Setting(
        "node_name",
        parse_name,
        None,
        "The name that peers see and that stands before this node's own tools. Changing it renames those tools for"
        " every client.",
        unset_means="the host's name, with the port when that is taken on this machine",
    ),
    Setting(
        "state_dir",
        parse_path,
        None,
        "The folder for the node's key, its ID and the operator's overrides. One that is set is used as it is, and is"
        " this node's alone, on whatever port; of the default one, each node uses the sub-folder of its port. Losing it"
        " makes the node a new one to its peers.",
        unset_means="$XDG_STATE_HOME/mesh-agent, else ~/.local/state/mesh-agent",
    ),
    Setting(
        "servers_file",
        parse_path,
        None,
        "The JSON file with `mcpServers`: the MCP servers that this node runs or reaches by URL. Any user who can"
        " write it decides what runs here.",
        unset_means="no servers of its own",
    ),
    Setting(
        "views_file",
        parse_path,
        None,
        "The JSON file with `views`: named selections of servers and tools, each an endpoint of its own at"
        " `/mcp/v/NAME` (docs/views.md). Read again when it changes. The servers file may have a section `views` as"
        " well; a view of this file beats one of that.",
        unset_means="the views of the servers file alone",
    ),
    Setting(
        "token",
        parse_token,
        None,
        "The bearer token of clients and operators. Use 32 random characters; a short one can be guessed over the"
        " network.",
        unset_means="no authentication, on loopback only",
        secret=True,
    ),
    Setting(
        "token_file",
        parse_path,
        None,
        "A file with that token, read again when it changes. Two lines are two valid tokens, the first one current, so"
        " that a token can be replaced while clients still use the old one.",
        unset_means="no file",
    ),
    Setting(
        "tokens_file",
        parse_path,
        None,
        "The JSON file with `tokens`: named tokens as hashes, each with its scopes, tools, end and rates"
        " (docs/security.md). Read again when it changes; with a fault, the last good one stays, and status says so."
        " `mesh-agent token` writes it. `MESH_TOKEN` is for all scopes, and may be left out then.",
        unset_means="no named tokens",
    ),
    Setting(
        "audit_file",
        parse_path,
        None,
        "The file of the audit: what operators changed and what was refused, as JSON lines in a chain of hashes"
        " (docs/security.md). It is always kept, since it is missed only afterwards; put it where the node's"
        " account alone can write.",
        unset_means="`audit.jsonl` in the node's folder of `MESH_STATE_DIR`",
    ),
    Setting(
        "audit_calls",
        parse_flag,
        "0",
        "Whether the audit has calls, too: the token's name, the tool and the outcome, never arguments. Some 300 bytes"
        " for each call, written twice a second; 384 MiB are kept.",
    ),
    Setting(
        "discovery",
        one_of("auto", "consul", "embedded", "off"),
        "auto",
        "Where peers come from: `consul`; `embedded`, a catalog for the nodes of one machine; `off`; `auto` uses"
        " Consul when one is configured or answers on 127.0.0.1:8500 and the embedded catalog until then;"
        " a node that was in that Consul before first waits five minutes for it.",
    ),
    Setting(
        "tool_mode",
        one_of("full", "search"),
        "full",
        "What tools/list shows to a client that does not say: `full`, every tool; `search`, the node's own tools and"
        " `search_tools`, `describe_tool`, `call_tool`, which stand for thousands in a model's context. A client may"
        " choose with `?tools=search` or `?tools=full` on the endpoint, or with the header `Mesh-Tools`.",
    ),
    Setting(
        "notices",
        one_of("on", "off"),
        "on",
        "Whether clients that do not say are sent `list_changed`. Some frameworks stop at the first one; a client may"
        " choose with `?notices=off` or `?notices=on` on the endpoint.",
    ),
    Setting(
        "errors",
        one_of("protocol", "result"),
        "protocol",
        "What a call that was not executed, or whose outcome is unknown, is for clients that do not say: `protocol`, a"
        " JSON-RPC error; `result`, a result with `isError` that a model reads, for frameworks that raise at errors."
        " A client may choose with `?errors=result` or `?errors=protocol` on the endpoint.",
    ),
    Setting(
        "instructions",
        one_of("merged", "names", "off"),
        "merged",
        "What clients read of the servers when they begin: `merged`, each server's own instructions under its name,"
        " at most 32,768 characters together; `names`, the names alone; `off`, nothing.",
    ),
    Setting(
        "list_page_size",
        parse_count,
        "10000",
        "How many entries a page of a list may have; it ends at 1 MB in any case, some 3,000 tools. Clients that never"
        " ask for a second page see no more than the first, and a page costs its client that much memory and, in a"
        " model's context, that many tokens; for those, search mode is the better way.",
    ),
    Setting(
        "name_len_max",
        parse_name_len,
        "64",
        "How long the names of tools and prompts may be that this node shows its clients, 32 to 64; longer ones are"
        " shortened. 48 leaves room for clients that put a prefix of their own before each name (`mcp__mesh__`) and"
        " refuse more than 64 characters in all. Nodes may differ in it: each shows every tool by its own limit, and"
        " the names between nodes, of up to 64, resolve everywhere. But a name that one node has shortened is unknown"
        " to a node with another value, so give nodes behind one address (a balancer) the same.",
    ),
    Setting(
        "default_scope",
        parse_scope,
        None,
        "The `mesh.scope` of entries of the servers file that name none: `service`, `node`, `private` or `fleet`. With"
        " `service`, servers of one name on several nodes are replicas, whichever of them a call reaches: wrong for"
        " files, and for whatever keeps a state of its own.",
        unset_means="`service` for URLs, `node` for commands",
    ),
    Setting(
        "short_names",
        parse_flag,
        "0",
        "Whether clients of this node see its own servers of scope `node` and `private` without the node's name,"
        " `files__read` in place of `node-1__files__read`. Both forms resolve here, and other nodes see no difference."
        " A short name always means this node's server, whatever joins or leaves, for the patterns of tokens, too; so a"
        " client that another node answers, behind a balancer, reaches the server there.",
    ),
    Setting(
        "fleet_writes",
        parse_patterns,
        "",
        "Tools of fleets that one call may run on several nodes although they are not read-only, by the names that"
        " clients see, parted by commas; `*` stands for any characters (docs/fleets.md). Whatever such a tool does, one"
        " wrong call does it everywhere.",
    ),
    Setting(
        "service_nodes",
        parse_service_nodes,
        "",
        "Which nodes may serve a name of scope `service`, as `name=ID` or `name=ID+ID`, parted by commas; IDs as"
        " `mesh-agent status` shows them. What others offer under such a name, plain peers and this node included, is"
        " refused and shown as a conflict. Names that are not listed go to any node of the mesh that has them.",
    ),
    Setting(
        "pinning",
        one_of("off", "warn", "block"),
        "warn",
        "What happens when a server of this node, or a plain peer, changes a tool or prompt that it has listed before:"
        " `warn` says so in log, status and metrics, `block` leaves the tool out of lists until an operator approves"
        " it (`mesh-agent pins`), `off` remembers nothing (docs/security.md).",
    ),
    Setting(
        "service_name",
        parse_service_name,
        "mcp-node",
        "The service name in Consul. Nodes that use another one are another mesh.",
    ),
    Setting(
        "datacenters",
        parse_datacenters,
        None,
        "Other datacentres of Consul, joined over the WAN, whose nodes are linked, too. Their replicas get calls where"
        " those at home are gone or three times slower.",
        unset_means="the own one alone",
    ),
    Setting(
        "peer_files",
        parse_globs,
        None,
        "Files that list peers, beside the catalog, by names or globs, in Prometheus' `file_sd` format (JSON or YAML);"
        " read again when they change.",
        unset_means="none",
    ),
    Setting(
        "peer_dns",
        parse_dns_names,
        None,
        "Names of DNS that list peers, beside the catalog: `_mcp._tcp.example` for SRV records, or `host:port` for the"
        " addresses of a host, for instance of a headless Kubernetes service. Looked up again when their TTL is over.",
        unset_means="none",
    ),
    Setting(
        "dns_servers",
        parse_dns_servers,
        None,
        "The name servers for `MESH_PEER_DNS`: IP addresses, with a port where it is not 53.",
        unset_means="those of the system",
    ),
    Setting(
        "advertise_address",
        parse_host,
        None,
        "The address that the catalog tells others. Set it behind NAT or in a container with published ports.",
        unset_means="worked out from the bind address and the way to Consul",
    ),
    Setting(
        "advertise_port",
        parse_port,
        None,
        "The port that the catalog tells others. Set it where the port is mapped.",
        unset_means="the port listened on",
    ),
    Setting(
        "weight",
        parse_weight,
        "1",
        "How many calls this node takes in comparison with others that serve the same, 1 to 100: of two that are"
        " equally fast, 1 and 3, the second gets three of four. Told by the catalog, so peers that it does not know"
        " count as 1.",
    ),
    Setting(
        "workers",
        parse_workers,
        "1",
        "How many processes serve tool calls behind this node's one port, 1 to 64; as many as there are cores is the"
        " most that helps. Each more costs 50 MB and connections of its own to the servers and nodes that it calls."
        " Not with TLS at this port (docs/guides/workers.md).",
    ),
    Setting(
        "peers",
        parse_peers,
        "",
        "Peers to link whatever discovery says, as `name=url` parted by commas. They cannot be removed over REST. "
        "One that is a node of this mesh proves it, and needs no token.",
    ),
    Setting(
        "peer_token",
        parse_token,
        None,
        "The secret of the mesh: its nodes prove to each other that they know it, and it is never sent. Set it when"
        " a client's token must not be enough to join as a node.",
        unset_means="derived from the token; without one, a random one that this user's nodes on this machine share",
        secret=True,
    ),
    Setting(
        "peer_token_file",
        parse_path,
        None,
        "A file with that secret; two lines as in `token_file`.",
        unset_means="no file",
    ),
    Setting(
        "tls_ca",
        parse_path,
        None,
        "A PEM file of certificate authorities that are trusted for servers and peers by https, besides the system's."
        " Each of them can vouch for any host.",
        unset_means="the system's alone, or those of SSL_CERT_FILE and SSL_CERT_DIR",
    ),
    Setting(
        "tls_cert",
        parse_path,
        None,
        "A PEM file with the certificate that is shown to servers and peers by https that ask for one; each of those"
        " learns the name in it.",
        unset_means="none is shown",
    ),
    Setting(
        "tls_key",
        parse_path,
        None,
        "The PEM file with that certificate's key, without a password; only the node should be able to read it.",
        unset_means="the key stands in `tls_cert`",
    ),
    Setting(
        "listen_cert",
        parse_path,
        None,
        "A PEM file with the certificate, and those that vouch for it, by which this node serves https in the place of"
        " http, to clients and other nodes alike; they have to trust it (`tls_ca`). It is read again when it changes.",
        unset_means="http",
    ),
    Setting(
        "listen_key",
        parse_path,
        None,
        "The PEM file with that certificate's key, without a password; only the node should be able to read it.",
        unset_means="the key stands in `listen_cert`",
    ),
    Setting(
        "listen_ca",
        parse_path,
        None,
        "A PEM file of certificate authorities: with it, https is for those alone who show a certificate that one of"
        " them has signed, other nodes (`tls_cert`) and probes included. Certificates of nodes have to name them then"
        " (docs/security.md), so peers by http are not linked any more.",
        unset_means="no certificate is asked for",
    ),
    Setting(
        "dial_allow",
        parse_networks,
        None,
        "Ranges of addresses (`10.0.0.0/8, fd00::/8, 127.0.0.1`), parted by commas: servers by URL, peers, proxies and"
        " issuers of tokens are dialled in these alone, and this machine's own addresses count like any others. Consul"
        " is dialled wherever its own variables say.",
        unset_means="all but metadata services, link-local, multicast and unspecified ones, which are never dialled",
    ),
    Setting(
        "dial_deny",
        parse_networks,
        "",
        "Ranges that are not dialled, whatever `dial_allow` says: networks that this node can reach, with services that"
        " trust all that can. A name is refused where all its addresses are.",
    ),
    Setting(
        "proxy_peers",
        parse_flag,
        "0",
        "Whether peers are reached through HTTP_PROXY and HTTPS_PROXY, as servers by URL are. Peers are mostly of the"
        " same network, and a proxy is one more thing that can fail between them.",
    ),
    Setting(
        "call_timeout_s",
        parse_seconds,
        "600",
        "Seconds that a forwarded call may take. Longer keeps a client waiting for a hung server, shorter cuts off"
        " slow tools whose work may still happen.",
    ),
    Setting(
        "cors_origins",
        parse_origins,
        "",
        "Web origins, besides loopback ones, that may use this node from a browser, parted by commas. Each one can run"
        " every tool that its user's token can.",
    ),
    Setting(
        "allowed_hosts",
        parse_hosts,
        "",
        "Further host names under which this node may be addressed, without ports, parted by commas; also an address"
        " that other nodes dial and this one does not know to be its own. Every name here is one that a DNS rebinding"
        " page could use.",
    ),
    Setting(
        "embedded_port",
        parse_port,
        "8520",
        "The loopback port of the embedded catalog. Nodes of one machine that use another port do not see each other.",
    ),
    Setting(
        "log_level",
        one_of("debug", "info", "warning", "error"),
        "info",
        "The least severe line to log. `info` has one line for each MCP request.",
    ),
    Setting(
        "log_format",
        one_of("auto", "text", "json"),
        "auto",
        "`text` on stderr, `json` (one object a line) on stdout, or `auto`: text on a terminal, else JSON.",
    ),
    Setting(
        "metrics_public",
        parse_flag,
        "0",
        "Whether `/metrics` answers without a token. It names peers and tools, never addresses or arguments.",
    ),
    Setting(
        "traces_url",
        parse_public_url,
        None,
        "Where spans of forwarded calls are sent, by OTLP over HTTP as JSON: `http://127.0.0.1:4318/v1/traces`"
        " (docs/metrics.md). Each call costs some microseconds more; names, outcomes and times leave this machine,"
        " arguments and results never.",
        "calls are not recorded; a client's trace context passes to servers all the same",
    ),
    Setting(
        "public_url",
        parse_public_url,
        None,
        "The URL by which clients know this mesh, in front of `/mcp`: `https://mesh.example.com`, or with the prefix of"
        " a proxy. The registry (`/v0.1`), the server card and `/llms.txt` name it (docs/registry.md), and names in the"
        " registry begin with its host in reverse. Set the same on all nodes, or each names the same servers"
        " otherwise.",
        "what each client used; names begin with `local.` and the service name",
    ),
    Setting(
        "registry_public",
        parse_flag,
        "0",
        "Whether the registry (`/v0.1`), the server card and `/llms.txt` answer without a token, and to pages of any"
        " origin, as editors read registries. They name servers, what those say of themselves and three tools of each;"
        " never private servers or arguments.",
    ),
    Setting(
        "allow_anonymous",
        parse_flag,
        "0",
        "Whether a node without a token may listen beyond loopback. Any client that reaches it can then run every tool:"
        " only on a network of your own.",
    ),
    Setting(
        "consul_http_check",
        parse_flag,
        "0",
        "Whether Consul polls `/healthz` instead of expecting heartbeats. It notices a node that hangs sooner; where"
        " Consul cannot reach the node, it holds a healthy one critical.",
    ),
    Setting(
        "consul_connect",
        parse_flag,
        "0",
        "Whether nodes serve https with certificates of Consul's own CA (Connect), and talk to each other by those"
        " alone. Clients have to trust its roots without a host name, so give them another one (`listen_cert`). All"
        " nodes need it.",
    ),
    Setting(
        "consul_wait_s",
        parse_consul_wait,
        "25",
        "Seconds that a query waits at Consul for news. Shorter behind a proxy that cuts off answers sooner; a restored"
        " Consul is noticed at the end of a wait. Each wait's end costs Consul one read.",
    ),
)

BY_NAME = {setting.name: setting for setting in SETTINGS}
# Value and file are two ways to say one thing, so they are looked up together.
FILE_TWINS = {"token": "token_file", "peer_token": "peer_token_file"}
# What a node reads once, at its start, and no library or child needs.
SECRET_VARIABLES = (*(setting.env for setting in SETTINGS if setting.secret), "CONSUL_HTTP_TOKEN", "CONSUL_HTTP_AUTH")
# Read by the command line's clients, not by a node.
CLIENT_VARIABLES = ("MESH_URL",)
