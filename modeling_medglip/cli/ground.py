# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""`medglip ground`."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ..errors import UsageError, one_line
from ..outputs.run_report import InputRecord
from .console import progress
from .inputs import Input, InputOptions, expand
from .options import check_table
from .request import VOLUME_OPTIONS, GroundRequest
from .session import finish, load_model, make_folder, quiet_libraries
from .tasks import make_task


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
        grounder: Grounder | None = None
        interrupted = False
        with quiet_libraries(self.debug), _reader(self.isolate) as reader:
            inputs, failed = expand(self.inputs, self._input_options(), reader, self.debug)
            stems, labels = self._stems(inputs), self._labels() if inputs else []
            make_folder(self.out)
            try:
                if inputs:
                    grounder = load_model(self.model, self.device, self.modality, self.base, self.debug)
                    for one, stem in progress(list(zip(inputs, stems, strict=True))):
                        task = make_task(self, grounder, stem, one)
                        records.append(task.run(one.name, one.opener(reader)))
                        rows += task.rows
            except KeyboardInterrupt:
                interrupted = True
        records = failed + records
        rest = inputs[len(records) - len(failed) :]
        records += [InputRecord(one_line(one.name, 120), "not done", 0.0) for one in rest]
        self._write_tables(grounder, labels, records, rows, time.perf_counter() - start)
        status = finish(records, self.out)
        return 130 if interrupted else status

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
        tables = {canonical_path(path) for path in (self.report, self.csv) if path is not None}
        if self.report is not None and self.csv is not None and len(tables) == 1:
            raise UsageError("--report and --csv: name the same file")
        return stems

    def _write_tables(
        self,
        grounder: Grounder | None,
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
                model="not loaded" if grounder is None else grounder.name,
                device="none" if grounder is None else str(grounder.device),
                options=self.stated(),
                labels=labels,
                records=records,
                seconds=seconds,
                versions=versions(),
            )
            write_text(self.report, to_json(content))
        if self.csv is not None:
            write_text(self.csv, to_csv(rows))


def _reader(isolate: bool) -> FileReader:
    from ..isolation.process import FileReader, ReaderProcess

    return ReaderProcess(limit_note=" (--no-isolate reads it without limits)") if isolate else FileReader()


__all__ = ["GroundCommand"]
