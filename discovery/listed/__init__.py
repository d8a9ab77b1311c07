"""Sources that only list addresses: files in Prometheus' `file_sd` format, and names of DNS."""
