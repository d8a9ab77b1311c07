# One node on every client of Nomad, found through Consul. docs/guides/docker.md says what the image wants.
#
#   nomad var put nomad/jobs/mesh token="$(openssl rand -base64 32)" secret="$(openssl rand -base64 32)"
#   nomad job run deploy/nomad/mesh.nomad.hcl
job "mesh" {
  type = "system"

  update {
    max_parallel = 1
    stagger      = "15s"
  }

  group "node" {
    network {
      port "http" {}
    }

    restart {
      attempts = 10
      interval = "5m"
      delay    = "5s"
      mode     = "delay"
    }

    # The node registers itself as mcp-node; this entry is for Nomad's own check, and clients may use it.
    service {
      name     = "mesh-http"
      provider = "nomad"
      port     = "http"
      check {
        type     = "http"
        path     = "/readyz"
        interval = "5s"
        timeout  = "2s"
      }
    }

    task "node" {
      driver = "docker"

      config {
        image           = "mcp-mesh-agent:latest" # yours, by digest
        network_mode    = "host" # the port that Nomad chose is the host's own
        cap_drop        = ["all"]
        security_opt    = ["no-new-privileges"]
        readonly_rootfs = true
        mounts = [
          { type = "tmpfs", target = "/tmp" },
        ]
      }

      env {
        HOST                   = "0.0.0.0"
        PORT                   = "${NOMAD_PORT_http}"
        CONSUL_HTTP_ADDR       = "http://127.0.0.1:8500"
        MESH_NODE_NAME         = "${node.unique.name}"
        MESH_ADVERTISE_ADDRESS = "${NOMAD_IP_http}"
        MESH_STATE_DIR         = "${NOMAD_ALLOC_DIR}/data/node"
        MESH_TOKEN_FILE        = "${NOMAD_SECRETS_DIR}/token"
        MESH_PEER_TOKEN_FILE   = "${NOMAD_SECRETS_DIR}/secret"
        MESH_SERVERS_FILE      = "${NOMAD_TASK_DIR}/servers.json"
      }

      template {
        destination = "${NOMAD_SECRETS_DIR}/token"
        change_mode = "noop" # the node reads it again when it changes
        data        = "{{ with nomadVar \"nomad/jobs/mesh\" }}{{ .token }}{{ end }}"
        uid         = 10001
        perms       = "0400"
      }

      template {
        destination = "${NOMAD_SECRETS_DIR}/secret"
        change_mode = "noop"
        data        = "{{ with nomadVar \"nomad/jobs/mesh\" }}{{ .secret }}{{ end }}"
        uid         = 10001
        perms       = "0400"
      }

      template {
        destination = "${NOMAD_TASK_DIR}/servers.json"
        change_mode = "noop"
        data        = <<-JSON
          {"mcpServers": {"weather": {"type": "http", "url": "http://127.0.0.1:9000/mcp"}}}
        JSON
      }

      # Draining takes 30 s at most.
      kill_signal  = "SIGTERM"
      kill_timeout = "40s"

      resources {
        cpu        = 500
        memory     = 256
        memory_max = 1024
      }
    }
  }
}
