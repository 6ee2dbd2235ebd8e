# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""`python -m training.evaluate`."""

import sys

from . import main


if __name__ == "__main__":
    sys.exit(main())
