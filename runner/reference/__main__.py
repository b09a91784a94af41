"""`python -m runner.reference docs` writes the generated pages; a test checks that they are up to date."""

from __future__ import annotations

import sys
from pathlib import Path

from runner.reference.pages import write

if __name__ == "__main__":
    write(Path(sys.argv[1]))
