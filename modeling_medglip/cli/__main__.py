# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""`python -m modeling_medglip.cli`, the same as the console script `medglip`."""

import sys

from . import main


if __name__ == "__main__":
    sys.exit(main())
