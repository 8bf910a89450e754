"""What a run starts from beside structure and model: labels and a trained ensemble that exist already."""

from pathlib import Path

from pydantic import Field, model_validator

from bayes_mlff.core.settings import FileSection, Section
from bayes_mlff.data.label_settings import LabelFileSettings


class LabelsSettings(LabelFileSettings, FileSection):
    """A file of labelled frames of the run's atoms, in their order, with its keys and units."""

    file: str = Field(
        description="Path of the labels: a file as `finetune` reads it, the dataset.extxyz of a run, or the directory "
        "of a run."
    )


class StartSettings(Section):
    """Labels and a trained ensemble to start from; they are copied into the run directory."""

    labels: LabelsSettings | None = Field(
        default=None,
        description="Labels of the same atoms in the same order, which are learnt before the first step: the path of "
        "a file or of the directory of a run, or a section {file: PATH, energy_unit: kcal/mol, ...} with the keys and "
        "units of finetune's data. They must be of the reference of the run; where that is not known, one of them is "
        "calculated again and compared.",
    )
    ensemble: str | None = Field(
        default=None,
        description="Directory of a run, which brings its labels too, or of a fine-tuning, or a file "
        "ensemble.safetensors, both with start.labels: the chains start from its samples. The prior stays at the model "
        "from which that began.",
    )

    @model_validator(mode="after")
    def _something(self) -> "StartSettings":
        if self.labels is None and self.ensemble is None:
            raise ValueError("labels, ensemble or both; without them, no section start")
        return self

    def paths(self) -> list[str]:
        """Paths of what is named."""
        return [path for path in (self.labels.file if self.labels is not None else None, self.ensemble) if path]

    def absolute(self, base: Path) -> "StartSettings":
        """The same with absolute paths; relative ones start from `base`."""
        labels, ensemble = self.labels, self.ensemble
        if labels is not None:
            labels = labels.model_copy(update={"file": str((base / labels.file).resolve())})
        if ensemble is not None:
            ensemble = str((base / ensemble).resolve())
        return self.model_copy(update={"labels": labels, "ensemble": ensemble})
