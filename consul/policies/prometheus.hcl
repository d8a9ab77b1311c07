# What Prometheus needs to find the nodes: to read, nothing else.
service_prefix "mcp-node" {
  policy = "read"
}

node_prefix "" {
  policy = "read"
}
