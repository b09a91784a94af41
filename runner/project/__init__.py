"""The project that a command is typed in: the folder of its records, and its settings."""
