"""`python -m tfaclgan.main` with the toy method of `toy.py` registered: a real command for tests of whole runs."""

from __future__ import annotations

import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))

from toy import TOY

from tfaclgan import main
from tfaclgan.methods import base

if __name__ == "__main__":
    base.names()  # loads the package's own
    base.register(TOY)
    sys.exit(main.main(sys.argv))
