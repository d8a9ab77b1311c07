"""A source of peers over files in Prometheus' `file_sd` format, JSON or YAML."""
