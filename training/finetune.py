# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""The old name of `python -m training.fit.finetune`, which keeps working through one release."""

import warnings

from .fit.finetune import main


if __name__ == "__main__":
    warnings.warn("python -m training.finetune is now python -m training.fit.finetune", FutureWarning, stacklevel=1)
    raise SystemExit(main())
