"""A transformer with a time embedder and embeddings of a text, guided by two evaluations: most of today's pipelines.

Such a family states its names: of pipeline and network (`name`, `pipelines`, `network_type`), of the layer that w is added to (`time_embedding`),
of the text's leaves as `encode_prompt` returns them, as the network takes them and as the pipeline does (`encoding`, `network_arguments`,
`pipeline_arguments`), and of the key in the network's config that has the text's features (`text_width`). Its quirks are methods of a few lines:
`network_time` where its time is not 0 to 1000, `inputs` and `output` where it takes or gives more.
"""

from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import pad
from torch.nn.utils.rnn import pad_sequence

from fewstep.method.conditioning import Condition
from fewstep.models.families.added_embedding import AddedEmbedding, given
from fewstep.models.families.pipeline_folder import check_fit, config_of
from fewstep.models.families.prompts import Prompts, random_text
from fewstep.models.metadata import Info


class TextTransformer(AddedEmbedding, Prompts):
    """A condition is {"text" (b, tokens, features)}, and {"mask" (b, tokens)}, 1 where a token is one of the prompt's, if `mask` names it."""

    network_arguments: dict[str, str] = {"encoder_hidden_states": "text"}  # noqa: RUF012 - what the network takes for a condition: its argument -> our leaf
    pipeline_arguments: dict[str, str] = {"prompt_embeds": "text"}  # noqa: RUF012
    text_width = "joint_attention_dim"  # the key of the network's config for the features of the text
    mask = ""  # the leaf that says which tokens are the prompt's; texts are then filled up to `text_tokens`

    @cached_property
    def known(self) -> dict[str, Any]:
        """The network's config in the model's folder, read once."""
        return self.network_config()

    def check(self, folder: Path, config: dict[str, Any]) -> None:
        """Raises InputError for a distilled network, or a text encoder or VAE of another model."""
        super().check(folder, config)
        check_fit(folder, "the text encoder's features", self.text_features(folder), config[self.text_width])
        check_fit(folder, "the VAE's channels", self.latent_channels(folder), self.channels(config))

    def text_features(self, folder: Path) -> Any:
        """How many features of each token the text encoder gives."""
        config = config_of(folder, "text_encoder")
        config = config.get("text_config") or config
        return config.get("d_model") or config.get("hidden_size")

    def latent_channels(self, folder: Path) -> Any:
        """How many channels of what is denoised the VAE makes."""
        config = config_of(folder, self.autoencoder)
        return config.get("latent_channels") or config.get("z_dim")

    def call(self, network: nn.Module, z: Tensor, time: Tensor, condition: dict[str, Tensor], w: Tensor | None) -> Tensor:
        """The output (b, ...) at timesteps `time` (b,)."""
        return self.output(network(**self.inputs(z, time, condition), return_dict=False, **given(w))[0], z)

    def inputs(self, z: Tensor, time: Tensor, condition: dict[str, Tensor]) -> dict[str, Any]:
        """The network's arguments for z (b, ...), timesteps (b,) and a condition."""
        text = {argument: condition[leaf] for argument, leaf in self.network_arguments.items()}
        return {"hidden_states": self.packed(z), "timestep": self.network_time(time, z)} | text

    def network_time(self, time: Tensor, z: Tensor) -> Tensor:
        """The network's time (b,) at timesteps (b,), those of a flow 1000 sigma."""
        return time

    def packed(self, z: Tensor) -> Tensor:
        """z (b, ...) as the network takes it."""
        return z

    def output(self, output: Any, z: Tensor) -> Tensor:
        """The prediction (b, ...), shaped as z, of what the network gives."""
        return output

    def encode_prompts(self, prompts: list[str], device: torch.device, negative: bool = False) -> Condition:
        """The leaves of a condition that prompts determine, of one length where there is a mask."""
        made = super().encode_prompts(prompts, device, negative)
        if not self.mask:
            return made
        assert isinstance(made, dict) and self.text_tokens is not None
        text, mask = made["text"], made.get(self.mask)
        if isinstance(text, list):  # each prompt's alone
            text, mask = (pad_sequence(rows, batch_first=True) for rows in (text, [row.new_ones(len(row)) for row in text]))
        mask = torch.ones(text.shape[:2], dtype=torch.long, device=device) if mask is None else mask.long()  # all are
        missing = self.text_tokens - text.shape[1]
        return made | {"text": pad(text, (0, 0, 0, missing)), self.mask: pad(mask, (0, missing))}

    def example(self, network: Any, info: Info, n: int) -> Condition:
        """Random text, of different lengths where there is a mask."""
        assert self.text_tokens is not None
        text = {"text": random_text(n, self.text_tokens, network.config[self.text_width])}
        if not self.mask:
            return text
        lengths = self.text_tokens - 3 * torch.arange(n, device="cpu")[:, None] % self.text_tokens
        return text | {self.mask: (torch.arange(self.text_tokens, device="cpu")[None] < lengths).long()}
