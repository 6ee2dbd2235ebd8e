# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""Structure-aware fuzzing of every reader: `python -m tests.fuzz --minutes 1`, or `make fuzz MINUTES=60`.

`corpus.py` makes the seeds in code, `mutators.py` damages them, `targets.py` says which reader takes which files and
which errors it may raise, `server.py` runs the readers in forked processes with limits of time and memory.
"""
