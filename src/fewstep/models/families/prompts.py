"""What families of text share: prompts encoded by the folder's own stock pipeline, and random text in their place for checks."""

import warnings
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from fewstep.errors import InputError
from fewstep.method.conditioning import Condition
from fewstep.models.denoiser import Null
from fewstep.models.families.diffusers_family import DiffusersFamily
from fewstep.models.families.pipeline_folder import config_of, quiet
from fewstep.models.metadata import Info

CLIP_TOKENS = 77  # of a prompt, where the text encoder does not say


class Prompts(DiffusersFamily):
    """The part of `Family` that follows from the stock pipeline's `encode_prompt`. A condition is a dictionary of named tensors."""

    condition = "text"
    encoders: tuple[str, ...] = ("text_encoder", "tokenizer")  # the parts that `encode_prompt` needs
    # the leaves of a condition, in the order in which `encode_prompt` returns them; "" is dropped
    encoding: tuple[str, ...] = ("text",)
    # the same for its `negative_prompt`, of a pipeline that encodes one otherwise than a prompt
    negative_encoding: tuple[str, ...] = ()
    encode_arguments: dict[str, Any] = {}  # noqa: RUF012 - of `encode_prompt`, besides prompts and device
    longest = "tokenizer"  # the tokenizer that reads most of a prompt
    text_tokens: int | None = None  # of a prompt; None: the tokenizer's own limit
    empty_prompt = ""  # the prompt that stands for none

    def encode(self, prompts: list[str], device: torch.device, **extra: Any) -> Condition:
        """The condition of prompts; one that is too long is cut, with a warning that says where.

        Raises:
            InputError: something is given that this family does not take.
        """
        if extra:
            raise InputError(f"this model takes no {' and no '.join(extra)}; leave it out")
        return self.encode_prompts(prompts, device)

    @torch.no_grad()
    def encode_prompts(self, prompts: list[str], device: torch.device, negative: bool = False) -> Condition:
        """The leaves of a condition that prompts determine, (n, ...); with `negative` as prompts to be guided away from."""
        pipeline = self.encoders_on(device)
        warn_of_cuts(getattr(pipeline, self.longest), prompts, self.text_tokens)
        with quiet():  # diffusers would warn of the cuts again
            return self.encoded(pipeline, list(prompts), device, negative and bool(self.negative_encoding))

    def encoded(self, pipeline: Any, prompts: list[str], device: torch.device, negative: bool) -> Condition:
        """What the stock pipeline makes of prompts; it may write into the list."""
        given: dict[str, Any] = {"prompt": prompts, "device": device} | self.encode_arguments
        if negative:
            given |= {"negative_prompt": prompts, "do_classifier_free_guidance": True}
        leaves, made = self.negative_encoding if negative else self.encoding, pipeline.encode_prompt(**given)
        return {leaf: value for leaf, value in zip(leaves, made, strict=False) if leaf}

    def null(self, info: Info, prompt: str = "") -> Null:
        """A function that gives the encoding of the prompt for none, or of a negative one, (1, ...), encoded once."""
        negative = {"negative": True} if self.negative_encoding else {}
        return cache(lambda: self.encode_prompts([prompt or self.empty_prompt], torch.device("cpu"), **negative))

    def encoders_on(self, device: torch.device, *more: str) -> Any:
        """The stock pipeline with tokenizers and text encoders alone, the encoders on a device."""
        pipeline = self.parts(*self.encoders, *more)
        for name in (*self.encoders, *more):
            if isinstance(part := getattr(pipeline, name), nn.Module):
                part.to(device)
        return pipeline

    def clip_tokens(self) -> int:
        """How many tokens a CLIP text encoder of the model's folder takes."""
        return config_of(self.folder, "text_encoder").get("max_position_embeddings", CLIP_TOKENS) if self.folder else CLIP_TOKENS


def random_text(n: int, *shape: int, seed: int = 0) -> Tensor:
    """Text (n, ...) that is always the same, on the CPU, for `example`."""
    return torch.randn(n, *shape, generator=torch.Generator(device="cpu").manual_seed(seed), device="cpu")


def warn_of_cuts(tokenizer: Any, prompts: list[str], limit: int | None = None) -> None:
    """A warning for each prompt that is longer than the encoder takes (or than `limit` tokens), with what is cut off."""
    limit = limit or int(tokenizer.model_max_length)
    for prompt in prompts:
        words = tokenizer(prompt, truncation=False, verbose=False).input_ids
        if len(words) > limit:
            lost = tokenizer.decode(words[limit - 1 : -1])
            warnings.warn(f"a prompt of {len(words)} tokens is cut to {limit}; not read: '{lost.strip()}'", stacklevel=5)
