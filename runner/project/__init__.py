"""The project of the working directory: the folder of its records, and its settings."""
