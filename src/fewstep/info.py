"""What is known about a model: the content of `fewstep.json`."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field


class Info(BaseModel):
    """What `fewstep.json` says of a model folder."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal[1] = 1
    kind: Literal["teacher", "student", "encoder"]
    family: str
    prediction: Literal["v", "x", "eps", "flow"]
    process: dict[str, Any]
    condition: Literal["class", "text"] = "class"
    classes: tuple[str, ...] = ()
    size: Annotated[int, Field(ge=1)]  # of what the network denoises: pixels, or latents
    channels: Annotated[int, Field(ge=1)]
    image_size: int | None = None  # of the pictures that latents stand for; None: the network denoises pixels
    image_channels: int | None = None  # likewise
    latent_shape: tuple[int, ...] | None = (
        None  # where it is not (channels, size, size): (channels, frames, height, width); size is the width
    )
    steps: int | None = None  # the step count that a student was trained for; None: any
    guidance_scale: tuple[float, float] | None = None  # the range that a student was trained for; None: any
    baked: bool = False  # a student of one scale, that scale in its weights: it takes no w
    negative_prompts: bool = False  # whether a student takes one
    sampler: Literal["deterministic", "stochastic"] = "deterministic"
    history: tuple[dict[str, Any], ...] = ()  # the stages that led here
    data: dict[str, Any] = {}
    quality: dict[str, Any] = {}

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one example of what the network denoises."""
        return self.latent_shape or (self.channels, self.size, self.size)

    @property
    def picture(self) -> tuple[int, int]:
        """(channels, size) of the pictures that go in and come out."""
        return (self.channels, self.size) if self.image_size is None else (self.image_channels or 3, self.image_size)

    @property
    def takes_w(self) -> bool:
        """Whether the network is told a guidance weight."""
        return self.kind != "teacher" and not self.baked
