# What a node's token may do, and no more: register itself, and see the other nodes.
# With another MESH_SERVICE_NAME, put that name in both places. agent:read is not needed.
#   consul acl policy create -name mesh-node -rules @mesh-node.hcl
#   consul acl token create -description "mesh node" -policy-name mesh-node

# To register, to send heartbeats and to deregister.
service "mcp-node" {
  policy = "write"
}

# To see who is registered. A prefix, because the health of an instance is read by this name too.
service_prefix "mcp-node" {
  policy = "read"
}

# Without it Consul answers with an empty list instead of an error: instances are shown only with their Consul node.
node_prefix "" {
  policy = "read"
}
