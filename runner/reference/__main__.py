"""`python -m runner.reference docs` writes the pages anew; a test holds them to what they are made from."""

from __future__ import annotations

import sys
from pathlib import Path

from runner.reference.pages import write

if __name__ == "__main__":
    write(Path(sys.argv[1]))
