# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""`medglip ground`."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import MedGlipError, UsageError, one_line
from ..outputs.run_report import InputRecord
from .cluster import ground_on_cluster
from .console import echo, fail, progress
from .inputs import Input, InputOptions, expand
from .jobs import Outcome, Work, ground_in_processes, ground_one, reader_of, show
from .journal import Journal, forget
from .options import check_table
from .request import VOLUME_OPTIONS, GroundRequest
from .session import checkpoint_identity, finish, load_model, make_folder, quiet_libraries


if TYPE_CHECKING:
    from ..grounding import Grounder
    from ..isolation.process import FileReader


class GroundCommand(GroundRequest):
    """Ground phrases on images and volumes: writes NAME.png (overlay) and NAME.boxes.json for every input."""

    def run(self) -> int:
        """Ground all inputs and return the exit status."""
        start = time.perf_counter()
        self.check()
        found: dict[int, Outcome] = {}
        model = ("not loaded", "none")
        interrupted, problem = False, None
        with quiet_libraries(self.debug), reader_of(self.isolate) as reader:
            inputs, failed = expand(self._paths(), self._input_options(), reader, self.debug)
            works, labels = list(zip(inputs, self._stems(inputs), strict=True)), self._labels() if inputs else []
            make_folder(self.out)
            try:
                if inputs:
                    grounder = self._load()
                    model = (grounder.name, "ray" if self.engine == "ray" else str(grounder.device))
                    with contextlib.closing(self._outcomes(works, grounder, reader)) as outcomes:
                        for index, outcome in outcomes:
                            found[index] = outcome
            except KeyboardInterrupt:
                interrupted = True
            except UsageError:
                raise
            except MedGlipError as error:  # what was done before stays done
                problem = error
        records = failed + [self._record(one, found.get(index)) for index, one in enumerate(inputs)]
        rows = [row for index in sorted(found) for row in found[index].rows]
        self._write_tables(model, labels, records, rows, time.perf_counter() - start)
        status = finish(records, self.out)
        if problem is not None:
            fail(problem, 1, self.debug)
        return 130 if interrupted else status

    @staticmethod
    def _record(one: Input, outcome: Outcome | None) -> InputRecord:
        return InputRecord(one_line(one.name, 120), "not done", 0.0) if outcome is None else outcome.record

    def _outcomes(
        self, works: Sequence[Work], grounder: Grounder, reader: FileReader
    ) -> Generator[tuple[int, Outcome], None, None]:
        """Yield the index of every input and what becomes of it; with `--resume` first what earlier runs did."""
        journal = Journal(self.out, self._settings(grounder)) if self.resume else None
        if journal is None:
            forget(self.out)
        before = {} if journal is None else {index: journal.done(*work) for index, work in enumerate(works)}
        known = {index: Outcome(*done) for index, done in before.items() if done is not None}
        if known:
            echo(f"{len(known)} of {len(works)} inputs were done before")
        yield from known.items()
        missing = [index for index in range(len(works)) if index not in known]
        with contextlib.closing(self._fresh([works[index] for index in missing], grounder, reader)) as fresh:
            for _, (position, outcome) in zip(progress(missing), fresh, strict=False):
                show(outcome)
                if journal is not None:
                    journal.add(works[missing[position]][1], outcome.record, outcome.rows)
                yield missing[position], outcome

    def _fresh(
        self, works: Sequence[Work], grounder: Grounder, reader: FileReader
    ) -> Generator[tuple[int, Outcome], None, None]:
        """Return the index and outcome of inputs that are not done yet."""
        if self.engine == "ray":
            return ground_on_cluster(self, works)
        jobs = min(self.jobs or 1, len(works))
        if jobs < 2:
            return ((index, ground_one(self, grounder, reader, work)) for index, work in enumerate(works))
        import torch

        return ground_in_processes(self, works, jobs, max(1, torch.get_num_threads() // jobs))

    def _settings(self, grounder: Grounder) -> dict[str, Any]:
        """Return all that decides what is found and written; names no folder."""
        stated = {name: value for name, value in self.stated().items() if name != "device"}
        return {"name": grounder.name, **checkpoint_identity(self.model, self.base), **stated}

    def _load(self) -> Grounder:
        """Load the checkpoint; for a cluster, whose machines load their own, only to check it and know its name."""
        here = self.engine != "ray"
        return load_model(
            self.model, self.device if here else "cpu", self.modality, self.base, self.debug, print_device=here
        )

    def _paths(self) -> list[Path]:
        """Return the inputs, as every process that reads them finds them."""
        return [path.absolute() for path in self.inputs] if self.engine == "ray" else self.inputs

    def _input_options(self) -> InputOptions:
        given = tuple("--" + name.replace("_", "-") for name in VOLUME_OPTIONS if getattr(self, name))
        return InputOptions(self.several_patients, self.resample, self.volume, self.frames, given, self.every or 1)

    def _labels(self) -> list[str]:
        from ..grounding import prompt_labels

        return prompt_labels(self.asked)

    def _stems(self, inputs: Sequence[Input]) -> list[str]:
        """Return the stem of every input's files. Refuses tables that would overwrite something, before any work."""
        from ..outputs.files import all_output_names, canonical_path, output_stems

        stems = output_stems([one.path for one in inputs], self.out)
        written = [self.out / name for stem in stems for name in all_output_names(stem)]
        read = [*self.inputs, *([self.prompts] if self.prompts else []), *(one.file for one in inputs)]
        check_table("--report", self.report, [*read, *written], self.out)
        check_table("--csv", self.csv, [*read, *written], self.out)
        check_table("--parquet", self.parquet, [*read, *written], self.out)
        named = [path for path in (self.report, self.csv, self.parquet) if path is not None]
        if len({canonical_path(path) for path in named}) < len(named):
            raise UsageError("--report, --csv and --parquet: two of them name the same file")
        return stems

    def _write_tables(
        self,
        model: tuple[str, str],
        labels: Sequence[str],
        records: Sequence[InputRecord],
        rows: Sequence[dict[str, Any]],
        seconds: float,
    ) -> None:
        """Write the manifest and the table of boxes, where they are asked for."""
        from ..outputs.csv_table import to_csv
        from ..outputs.files import to_json, write_text
        from ..outputs.run_report import build_run_report, versions

        if self.report is not None:
            content = build_run_report(
                model=model[0],
                device=model[1],
                options=self.stated(),
                labels=labels,
                records=records,
                seconds=seconds,
                versions=versions(),
            )
            write_text(self.report, to_json(content))
        if self.csv is not None:
            write_text(self.csv, to_csv(rows))
        if self.parquet is not None:
            from ..outputs.parquet_table import write_parquet

            write_parquet(rows, self.parquet)


__all__ = ["GroundCommand"]
