"""What checks against a server have found, for people and for programs."""
