# The Consul agent of a host: nodes on this host register with it, and it keeps them registered at the servers.
# Used by docker-compose.yml, where the private network stands for the host; on real hosts set client_addr to 127.0.0.1.
server     = false
datacenter = "dc1"
data_dir   = "/consul/data"

# Where data_dir does not outlive the agent, give it a fixed ID (-node-id, or node_id here): one that comes back under a
# new ID is refused its own name as long as the servers take the former agent for alive. One of 1.21 then hangs up on
# each registration of a service that the catalog still has under that name, until that is deregistered there.

retry_join     = ["consul1", "consul2", "consul3"]
retry_interval = "1s"

bind_addr   = "{{ GetPrivateIP }}"
client_addr = "0.0.0.0"

# An agent that is stopped on purpose takes its registrations along at once, instead of leaving them to fail.
leave_on_terminate = true

limits {
  # Every node holds a blocking query open, and a cancelled one counts until its wait ends. The default of 200 a client
  # address is soon used up where many nodes share one host.
  http_max_conns_per_client = 1000
}

disable_update_check = true

# ---------------------------------------------------------------------------------------------------------------------
# Gossip encryption, TLS and access control: the same three blocks as in server.hcl, plus, for access control, the
# agent's own token (node write for its own name, service read), which is not the nodes' token. Where the
# agent has none, Consul 1.21 answers 200 to a node that deregisters and keeps its entry, passing, for ever
# ("deregistration blocked by ACLs"): calls would go to a node that is gone.

# encrypt = "<key>"

# tls {
#   defaults {
#     ca_file         = "/consul/tls/consul-agent-ca.pem"
#     verify_incoming = false
#     verify_outgoing = true
#   }
#   internal_rpc {
#     verify_server_hostname = true
#   }
# }
# auto_encrypt {
#   tls = true
# }

# acl {
#   enabled                  = true
#   default_policy           = "deny"
#   enable_token_persistence = true
#   tokens {
#     agent = "<the agent's own token>"
#   }
# }
