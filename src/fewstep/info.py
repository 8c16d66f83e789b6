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
    steps: int | None = None  # the step count that a student was trained for; None: any
    guidance_scale: tuple[float, float] | None = None  # the range that a student was trained for; None: any
    baked: bool = False  # a student of one scale, that scale in its weights: it takes no w
    sampler: Literal["deterministic", "stochastic"] = "deterministic"
    history: tuple[dict[str, Any], ...] = ()  # the stages that led here
    data: dict[str, Any] = {}
    quality: dict[str, Any] = {}

    @property
    def takes_w(self) -> bool:
        """Whether the network is told a guidance weight."""
        return self.kind != "teacher" and not self.baked
