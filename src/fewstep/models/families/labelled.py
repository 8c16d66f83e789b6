"""What families of class labels share: the network's config says how many labels there are, the folder's index how they are called."""

from pathlib import Path
from typing import Any

from fewstep.errors import InputError
from fewstep.models.families.diffusers_family import DiffusersFamily
from fewstep.models.families.pipeline_folder import check_fit, index_of
from fewstep.models.metadata import Info


class Labelled(DiffusersFamily):
    """A condition is labels (b,); the label after the last class stands for none."""

    def labels(self, config: dict[str, Any]) -> int:
        """How many labels the network takes, that of none included; 0: it takes no class."""
        return config.get("num_class_embeds") or 0

    def check(self, folder: Path, config: dict[str, Any]) -> None:
        """Raises InputError for a network that takes no class."""
        super().check(folder, config)
        if not self.labels(config):
            raise InputError(f"{folder} takes no class (num_class_embeds is not set), so it cannot be guided; name another teacher")

    def check_info(self, info: Info) -> None:
        """Raises InputError where the metadata in the model's folder do not fit the network there."""
        super().check_info(info)
        assert self.folder is not None
        check_fit(self.folder, "classes in fewstep.json", len(info.classes), self.labels(self.network_config()) - 1)

    def classes(self, folder: Path, config: dict[str, Any]) -> tuple[str, ...]:
        """Their names, from `id2label` in model_index.json where it is, else their numbers."""
        names = index_of(folder).get("id2label") or {}
        return tuple(str(names.get(str(i), i)) for i in range(self.labels(config) - 1))
