"""Where a trained model goes, and where its checkpoints stay until it is saved."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path

from bertsurgeon import distributed
from bertsurgeon.checkpoint import check_output, check_work_folder, holds_training
from bertsurgeon.errors import OptionError


@dataclass(frozen=True)
class TrainingOutput:
    """Where a trained model goes, and where its checkpoints stay until it is saved.

    Attributes:
        folder: The output folder.
        resume: Continue the run that a killed process left.
        overwrite: Replace the output folder, and an unfinished run.
    """

    folder: Path
    resume: bool = False
    overwrite: bool = False

    @property
    def work_dir(self) -> Path:
        """The Trainer's folder for checkpoints, beside the output folder.

        Raises:
            OptionError: If the output folder is the root of the file system.
        """
        folder = Path(os.path.abspath(self.folder))
        if not folder.name:
            raise OptionError(f"{folder} is the root of the file system; name a folder in it for the output.")
        return folder.with_name(f"{folder.name}.training")

    def check(self, inputs: list[Path]) -> TrainingOutput:
        """Checks, before any work is done, that the output can be written.

        Args:
            inputs: Files and folders that are read.

        Returns:
            The same output; a resumed run may replace the folder that it was going to replace.

        Raises:
            CheckpointError: If the folder cannot be written, or may not be replaced.
            OptionError: If there is an unfinished run, and neither ``resume`` nor ``overwrite`` is set.
        """
        unfinished = distributed.run_on_main(lambda: holds_training(self.work_dir))
        overwrite = self.overwrite or (self.resume and unfinished)
        check_output(self.folder, overwrite, inputs)
        keep = unfinished and (self.resume or not self.overwrite)
        distributed.run_on_main(lambda: check_work_folder(self.work_dir, keep=keep, inputs=inputs))
        if unfinished and not self.resume and not self.overwrite:
            raise OptionError(
                f"{self.work_dir} holds an unfinished run; pass --resume to continue it or --overwrite to start anew."
            )
        return replace(self, overwrite=overwrite)
