"""The install step: locks by every pip, its output, and the wheel."""
