# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""The old name of `python -m training.fit.finetune`, which goes with the next release."""

import warnings

from .fit.finetune import main


if __name__ == "__main__":
    message = (
        "python -m training.finetune is now python -m training.fit.finetune; the old name goes with the next release"
    )
    warnings.warn(message, FutureWarning, stacklevel=1)
    raise SystemExit(main())
