# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""`medglip ground`."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import UsageError, one_line
from ..outputs.run_report import InputRecord
from .console import echo, progress
from .inputs import Input, InputOptions, expand
from .jobs import Outcome, Work, ground_in_processes, ground_one, reader_of, show
from .journal import Journal
from .options import check_table
from .request import VOLUME_OPTIONS, GroundRequest
from .session import finish, load_model, make_folder, quiet_libraries


if TYPE_CHECKING:
    from ..grounding import Grounder
    from ..isolation.process import FileReader


class GroundCommand(GroundRequest):
    """Ground phrases on images and volumes: writes NAME.png (overlay) and NAME.boxes.json for every input."""

    def run(self) -> int:
        """Ground all inputs and return the exit status."""
        start = time.perf_counter()
        self.check()
        records: list[InputRecord] = []
        rows: list[dict[str, Any]] = []
        model = ("not loaded", "none")
        interrupted = False
        with quiet_libraries(self.debug), reader_of(self.isolate) as reader:
            inputs, failed = expand(self.inputs, self._input_options(), reader, self.debug)
            works, labels = list(zip(inputs, self._stems(inputs), strict=True)), self._labels() if inputs else []
            make_folder(self.out)
            try:
                if inputs:
                    grounder = load_model(self.model, self.device, self.modality, self.base, self.debug)
                    model = (grounder.name, str(grounder.device))
                    for outcome in self._outcomes(works, grounder, reader):
                        records.append(outcome.record)
                        rows += outcome.rows
            except KeyboardInterrupt:
                interrupted = True
        rest = inputs[len(records) :]
        records = failed + records
        records += [InputRecord(one_line(one.name, 120), "not done", 0.0) for one in rest]
        self._write_tables(model, labels, records, rows, time.perf_counter() - start)
        status = finish(records, self.out)
        return 130 if interrupted else status

    def _outcomes(self, works: Sequence[Work], grounder: Grounder, reader: FileReader) -> Iterator[Outcome]:
        """Yield what becomes of the inputs, in their order; with `--resume` what an earlier run did comes as it is."""
        journal = Journal(self.out, self._settings(grounder)) if self.resume else None
        before = [None if journal is None else journal.done(*work) for work in works]
        missing = [work for work, known in zip(works, before, strict=True) if known is None]
        if journal is not None and len(missing) < len(works):
            echo(f"{len(works) - len(missing)} of {len(works)} inputs were done before")

        def finished(work: Work, outcome: Outcome) -> None:
            if journal is not None:
                journal.add(work[0], work[1], outcome.record, outcome.rows)

        fresh = self._fresh(missing, grounder, reader, finished)
        for known in progress(before):
            if known is not None:
                yield Outcome(*known)
                continue
            outcome = next(fresh)
            show(outcome)
            yield outcome

    def _fresh(
        self,
        works: Sequence[Work],
        grounder: Grounder,
        reader: FileReader,
        finished: Callable[[Work, Outcome], None],
    ) -> Iterator[Outcome]:
        """Yield what becomes of inputs that are not done yet, in their order."""
        jobs = min(self.jobs, len(works))
        if jobs > 1:
            import torch

            yield from ground_in_processes(self, works, jobs, max(1, torch.get_num_threads() // jobs), finished)
            return
        for work in works:
            outcome = ground_one(self, grounder, reader, work)
            finished(work, outcome)
            yield outcome

    def _settings(self, grounder: Grounder) -> dict[str, Any]:
        """Return all that decides what is found and written."""
        from ..checkpoints.loading import locate
        from ..checkpoints.location import weights_sha256
        from ..outputs.run_report import package_version

        source, _ = locate(self.model)
        weights = weights_sha256(source) if isinstance(source, Path) else None
        model = {"model": grounder.name, "weights": weights, "base": self.base, "version": package_version()}
        return {**model, **{name: value for name, value in self.stated().items() if name != "device"}}

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
