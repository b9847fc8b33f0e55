"""How runs look on a terminal and in plain text."""
