"""From the offers of backends to the table of public names. PURE."""
