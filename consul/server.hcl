# A Consul server, one of three. Any one of them may be lost; the other two go on.
# Used by docker-compose.yml; on real hosts put the three hosts' names into retry_join, the rest may stay.
server           = true
bootstrap_expect = 3
datacenter       = "dc1"
data_dir         = "/consul/data"

retry_join     = ["consul1", "consul2", "consul3"]
retry_interval = "1s"

# Servers speak to each other on the private address. Their HTTP API stays on loopback: nodes and Prometheus talk to the
# agent of their own host (client.hcl), as Consul means it.
bind_addr   = "{{ GetPrivateIP }}"
client_addr = "127.0.0.1"

performance {
  # 1: the shortest election and failure times; the default of 5 is meant for very small machines.
  raft_multiplier = 1
}

disable_update_check = true

# ---------------------------------------------------------------------------------------------------------------------
# Before other people share this network, turn on all three of these, here and in client.hcl.

# 1. Gossip encryption. Make one key for all with: consul keygen
# encrypt                 = "<key>"
# encrypt_verify_incoming = true
# encrypt_verify_outgoing = true

# 2. TLS (Consul 1.12 and later; earlier versions take the same settings at the top level, without the blocks). Make the
#    files with: consul tls ca create; consul tls cert create -server -dc dc1
# tls {
#   defaults {
#     ca_file         = "/consul/tls/consul-agent-ca.pem"
#     cert_file       = "/consul/tls/dc1-server-consul-0.pem"
#     key_file        = "/consul/tls/dc1-server-consul-0-key.pem"
#     verify_incoming = true
#     verify_outgoing = true
#   }
#   internal_rpc {
#     verify_server_hostname = true
#   }
# }
# ports {
#   http  = -1
#   https = 8501
# }

# 3. Access control. Without it whoever reaches Consul decides where the mesh sends its calls. Create a token for the
#    nodes from policies/mesh-node.hcl and give it to them as CONSUL_HTTP_TOKEN_FILE. The agent needs a token of its own
#    (node write for its name, service read): where it has none, Consul 1.21 answers 200 to a node that
#    deregisters and keeps its entry, passing, for ever ("deregistration blocked by ACLs").
# acl {
#   enabled                  = true
#   default_policy           = "deny"
#   enable_token_persistence = true
#   tokens {
#     agent = "<the agent's own token>"
#   }
# }
