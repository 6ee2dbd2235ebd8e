# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""Load the checkpoints of the Space once, and ground prompts with them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, TypeVar

from modeling_medglip.errors import MedGlipError, UsageError
from modeling_medglip.grounding import Grounder, asked_labels, ground_image, load_grounder
from modeling_medglip.inference import keep_freed_memory
from modeling_medglip.io.image_record import ReadImage
from modeling_medglip.modality_choice import choose_modality
from modeling_medglip.outputs.results import GroundingResult
from modeling_medglip.outputs.volume_results import VolumeResult
from modeling_medglip.trained_labels import trained_labels
from modeling_medglip.volume_grounding import ground_volume
from modeling_medglip.volumes.geometry import slice_count, to_lps
from modeling_medglip.volumes.source import VolumeSource
from space_settings import FAINTEST, FAINTEST_IN_VOLUMES, Settings


NAMES = {
    "ct": "CT",
    "mri": "MRI",
    "ultrasound": "Ultrasound",
    "xray": "X-ray",
    "dermoscopy": "Dermoscopy",
    "endoscopy": "Endoscopy",
    "fundus": "Fundus",
}
# Two images and a volume at the same time.
WORKERS = 3
Progress = Callable[[Iterable[Any], int], Iterable[Any]]
Result = TypeVar("Result", bound=GroundingResult | VolumeResult)


@dataclass(frozen=True)
class Experts:
    """Loaded checkpoints, the main one first.

    Attributes:
        grounders (`tuple[Grounder, ...]`): never empty.
        settings ([`Settings`]): of the server.
        workers (`ThreadPoolExecutor`): the few threads in which networks run; each such thread holds memory for it.
    """

    grounders: tuple[Grounder, ...]
    settings: Settings
    workers: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(WORKERS), repr=False)

    @property
    def main(self) -> Grounder:
        """The checkpoint that is used unless another is chosen."""
        return self.grounders[0]

    def trained(self) -> dict[str, list[str]]:
        """Return modality -> labels that the main checkpoint was trained with."""
        return trained_labels(self.main.model.config.to_dict())

    def modality_choices(self) -> list[tuple[str, str]]:
        """Return (shown, value) of the main checkpoint's modalities."""
        return [("Automatic", "auto"), *((NAMES.get(name, name), name) for name in self.main.modalities)]

    def second_choices(self) -> list[tuple[str, str]]:
        """Return (shown, value) of every expert that can be compared with the first one."""
        several = len(self.grounders) > 1
        return [("None", "")] + [
            (f"{NAMES.get(name, name)} expert" + (f" of {grounder.name}" if several else ""), f"{number}:{name}")
            for number, grounder in enumerate(self.grounders)
            for name in grounder.modalities
        ]

    def window(self) -> tuple[float, float]:
        """Return (center, width) in HU of the window for CT."""
        return self.main.ct_window

    def guess(self, image: ReadImage) -> tuple[str, str, float | None]:
        """Return the modality of an image, its source, and the router's probability; `"", "", None` if unknown.

        Args:
            image ([`ReadImage`]): as it was read.
        """
        try:
            return choose_modality(self.main, image)[:3]
        except ValueError:
            return "", "", None

    def find(self, image: ReadImage, prompt: str, modality: str, second: str = "") -> tuple[GroundingResult, ...]:
        """Return the boxes of an image down to `FAINTEST`, by one expert or two.

        Args:
            image ([`ReadImage`]): as it was read.
            prompt (`str`): labels with dots, commas or lines between.
            modality (`str`): of the first expert; `"auto"` chooses it.
            second (`str`, *optional*): the second expert as `"0:ct"`: number of its checkpoint, and modality.

        Raises:
            `MedGlipError`: see [`~modeling_medglip.grounding.ground_image`].
        """
        self._check(prompt)
        asked = [(self.main, modality), *([self._chosen(second)] if second else [])]
        find = partial(ground_image, threshold=FAINTEST, untrained_threshold=self.settings.untrained_threshold)
        work = [self.workers.submit(find, image, prompt, name, one) for one, name in asked]
        end = time.monotonic() + self.settings.seconds
        try:
            # Without what opens the image again: pixels must not stay in the state of a session.
            return tuple(replace(one.result(max(0.0, end - time.monotonic())), open_image=None) for one in work)
        except TimeoutError:
            for one in work:
                one.cancel()
            raise _too_slow(self.settings.seconds) from None

    def find_in_volume(
        self, source: VolumeSource, prompt: str, modality: str, plane: str | None, progress: Progress | None = None
    ) -> VolumeResult:
        """Return the boxes of a volume down to `FAINTEST_IN_VOLUMES`.

        Args:
            source ([`VolumeSource`]): the opened volume.
            prompt (`str`): labels with dots, commas or lines between.
            modality (`str`): of the expert; `"auto"` chooses it.
            plane (`str`, *optional*): in which slices are searched; the acquired one by default.
            progress (`Callable`, *optional*): wraps the slices.

        Raises:
            `MedGlipError`: see [`~modeling_medglip.volume_grounding.ground_volume`].
        """
        self._check(prompt)
        lps = to_lps(source.grid)
        slices = max(slice_count(lps, name) for name in ([plane] if plane else ("axial", "coronal", "sagittal")))
        if slices > self.settings.slices:
            raise UsageError(f"{source.name}: has {slices} slices, more than {self.settings.slices}")
        timed = partial(
            _until, time.monotonic() + self.settings.volume_seconds, self.settings.volume_seconds, progress
        )
        work = partial(
            ground_volume, plane=plane, model=self.main, progress=timed, threshold=FAINTEST_IN_VOLUMES,
            untrained_threshold=self.settings.untrained_threshold,
        )  # fmt: skip
        # Without what opens the volume again, as above.
        return replace(self.workers.submit(work, source, prompt, modality).result(), open_volume=None)

    def _check(self, prompt: str) -> None:
        count = max(len(asked_labels(self.main, prompt, name)) for name in self.main.modalities)
        if count > self.settings.labels:
            raise UsageError(f"the prompt has {count} labels, more than {self.settings.labels}: split it")

    def _chosen(self, second: str) -> tuple[Grounder, str]:
        number, _, name = second.partition(":")
        if not number.isdecimal() or int(number) >= len(self.grounders) or not name:
            raise UsageError("the second expert: choose one of the list, such as 0:ct")
        return self.grounders[int(number)], name


def _until(end: float, seconds: float, progress: Progress | None, slices: Iterable[Any], count: int) -> Iterator[Any]:
    """Yield the slices of a volume until its time is over."""
    for item in slices if progress is None else progress(slices, count):
        if time.monotonic() > end:
            raise _too_slow(seconds)
        yield item


def _too_slow(seconds: float) -> MedGlipError:
    return MedGlipError(
        f"this took longer than {seconds:g} s here: ask for fewer labels, or again when fewer people do"
    )


def load_experts(settings: Settings) -> Experts:
    """Load all checkpoints.

    Raises:
        `CheckpointError`: names the checkpoint that cannot be used.
    """
    sources: Sequence[str | None] = (settings.model, *settings.others)
    keep_freed_memory()
    return Experts(tuple(load_grounder(source) for source in sources), settings)


def above(result: Result, threshold: float) -> Result:
    """Return the result without the boxes below a threshold.

    Args:
        result ([`GroundingResult`] or [`VolumeResult`]): stays as it is.
        threshold (`float`): lowest score, 0 to 1.
    """
    return replace(result, boxes=tuple(box for box in result.boxes if box.score >= threshold))  # type: ignore[arg-type]
