"""Settings of the models and of the stages: what is taught, what students are, and how each stage trains them."""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, field_validator, model_validator

from fewstep.method.guidance_rules import rule_of
from fewstep.method.stage_two import rungs

Updates = Annotated[int, Field(ge=0, le=10_000_000)]
LearningRate = Annotated[float, Field(gt=0, le=1)]
Weighting = Literal["auto", "snr_plus_one", "truncated_snr", "snr", "min_snr"]
Gamma = Annotated[float, Field(ge=1, le=1e6)]  # of the weighting min_snr: its bound
Dtype = Literal["float32", "bfloat16", "float16"]
Schedule = Literal["constant", "linear", "cosine"]


def _divides(ladder: tuple[int, ...]) -> tuple[int, ...]:
    if ladder:
        rungs(ladder)
    return ladder


DIVIDES = AfterValidator(_divides)
Steps = tuple[Annotated[int, Field(ge=1, le=1 << 20)], ...]


class Section(BaseModel):
    """A part of a recipe: frozen, no unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class GuidanceSettings(Section):
    """How a teacher's two branches combine; see docs/guidance.md. Of the numbers, those of the rule."""

    name: Literal["plain", "interval", "rescale", "apg"] = "plain"
    low: Annotated[float, Field(ge=0, le=1)] | None = None  # interval: guidance from this time ...
    high: Annotated[float, Field(ge=0, le=1)] | None = None  # ... to this one alone (0 is data, 1 noise)
    phi: Annotated[float, Field(ge=0, le=1)] | None = None  # rescale: the share that is brought back to the conditional spread
    over: Literal["example", "channels"] | None = None  # rescale: of an example, or along the channels of each place
    eta: Annotated[float, Field(ge=0, le=10)] | None = None  # apg: what the part along the estimate counts
    norm: Annotated[float, Field(gt=0, le=1e6)] | None = None  # apg: the largest root mean square of the difference

    @model_validator(mode="after")
    def _numbers_of_the_rule(self) -> "GuidanceSettings":
        rule_of(self.model_dump(exclude_none=True))
        return self


class TeacherSettings(Section):
    path: str | None = None  # a model folder, a diffusers folder, a hub id, a .safetensors file, or a bundled teacher ("digits")
    revision: str | None = None  # of a hub id
    variant: str | None = None  # of the weights, as "fp16"
    dtype: Dtype | None = (
        None  # that its frozen weights are kept in; None: as its folder has them. train.precision says how they are computed with
    )
    lora: tuple[str, ...] = ()  # LoRA files merged into it, each "FILE" or "FILE:WEIGHT"
    force: bool = False  # take it though its scheduler or its name says that it is distilled already
    guidance: GuidanceSettings = GuidanceSettings()  # the rule that its students learn
    weak: str | None = None  # a weaker model in the place of the null branch (autoguidance)

    @property
    def rule(self) -> dict[str, Any]:
        """The guidance as `fewstep.json` has it; empty where it is plain."""
        named = self.guidance.model_dump(exclude_none=True)
        known = {} if named == {"name": "plain"} else named
        return known if self.weak is None else known | {"weak": self.weak}


class TeachSettings(Section):
    start: str | None = None  # a model folder, a diffusers folder or a hub id to train on; None: a new network, as [network] says
    updates: Updates = 20_000
    learning_rate: LearningRate = 1e-3
    schedule: Schedule = "cosine"  # of the learning rate, after the warmup
    condition_dropout: Annotated[float, Field(ge=0, lt=1)] = 0.1  # share of examples without their condition
    prediction: Literal["v", "x", "eps"] = "v"  # what a new network gives
    weighting: Weighting = "auto"  # of the error in x: snr_plus_one, the plain error in v; of a network that predicts x min_snr
    min_snr_gamma: Gamma = 5.0
    inpainting: bool = False  # a new network that also takes a mask and what is known of the picture, and fills in the rest

    @model_validator(mode="after")
    def _start_says_what_it_is(self) -> "TeachSettings":
        if self.start is not None and self.inpainting:
            raise ValueError("inpainting = true is for a new network; that of teach.start says itself what it takes: leave it out")
        return self


class LoraSettings(Section):
    """A student of adapters on the teacher's frozen weights; see docs/lora.md."""

    rank: Annotated[int, Field(ge=1, le=8192)] = 64
    alpha: Annotated[float, Field(gt=0, le=1e6)] = 64.0  # the adapters count alpha / rank
    targets: Annotated[tuple[str, ...], Field(min_length=1)] | None = None  # ends of layers' names; None: what suits the network


class StudentSettings(Section):
    dtype: Dtype | None = None  # that weights are saved in; None: as the teacher's folder has its network
    guidance_scale: tuple[Annotated[float, Field(ge=0, le=100)], Annotated[float, Field(ge=0, le=100)]] = (1.0, 5.0)
    prediction: Literal["auto", "same", "v", "x", "eps"] = "auto"  # auto: v, or of a flow the flow; same: the teacher's own
    rescale_zero_terminal_snr: bool = False  # the student's process ends in noise alone, as its sampling begins
    lora: LoraSettings | None = None  # None: the whole network is trained
    start: str | None = (
        None  # a run whose students the stages begin with, by their names, in place of the teacher and of the stage before
    )
    negative_prompts: bool = False  # the student learns to take a negative prompt, from those of data.negative_prompts
    negative_share: Annotated[float, Field(gt=0, le=1)] = 0.5  # of the examples that have one

    @model_validator(mode="after")
    def _ordered(self) -> "StudentSettings":
        if self.guidance_scale[0] > self.guidance_scale[1]:
            raise ValueError(f"the range {list(self.guidance_scale)} is upside down; give the smaller number first")
        return self


class StageOneSettings(Section):
    updates: Updates = 10_000
    learning_rate: LearningRate = 1e-3
    schedule: Schedule = "linear"
    weighting: Weighting = "auto"  # snr_plus_one; of students that predict x min_snr: min(SNR + 1, min_snr_gamma)
    min_snr_gamma: Gamma = 5.0
    times: Literal["continuous", "grid"] = "continuous"  # grid: only those of the ladder's first step count
    guided_inputs: Annotated[float, Field(ge=0, le=1)] = 0.0  # share of examples that start from the teacher's guided samples
    balance: Annotated[float, Field(ge=0, le=4)] = 2.0  # each example's loss is divided by guidance_scale to this power


class StageTwoSettings(Section):
    ladder: Annotated[Steps, Field(min_length=1, max_length=32), DIVIDES] = (64, 16, 8, 4, 2, 1)  # each divides the one before
    updates: Updates = 5_000  # a rung
    last_updates: Updates = 10_000  # each of the rungs to 2 and to 1 step
    learning_rate: LearningRate = 5e-4
    schedule: Schedule = "linear"
    weighting: Weighting = "auto"  # truncated_snr: max(SNR, 1); of students that predict x min_snr
    min_snr_gamma: Gamma = 5.0
    guided_inputs: Annotated[float, Field(ge=0, le=1)] = 0.0  # as in stage one
    balance: Annotated[float, Field(ge=0, le=4)] = 0.0  # as in stage one
    sampler: Literal["deterministic", "stochastic"] = "deterministic"


class PathsSettings(Section):
    """A rung that is taught straight from the guided teacher's own paths; see docs/paths.md."""

    rung: Annotated[int, Field(ge=0, le=1 << 20)] | None = None  # the step count of the ladder that it is for; 0 or None: no paths
    after_rung: bool = True  # first taught as every rung is, then by paths; false: by paths alone, from the student before
    solver_steps: Annotated[int, Field(ge=1, le=1 << 20)] = 24  # of DPM-Solver++ 2M; a multiple of the rung's steps
    count: Annotated[int, Field(ge=16, le=100_000_000)] = 20_000  # paths in the pool
    low_share: Annotated[float, Field(ge=0, le=1)] = 0.3  # of the paths at the lowest guidance scale itself
    held_out: Annotated[float, Field(ge=0, le=0.5)] = 0.05  # share of the paths that is never trained on, and tells when to stop
    validate_every: Annotated[int, Field(ge=1)] = 100  # updates
    patience: Annotated[int, Field(ge=0)] = 10  # validations without a lower error that end the stage; 0: none do
    updates: Updates = 5_000
    learning_rate: LearningRate = 3e-4
    schedule: Schedule = "linear"
    weighting: Weighting = "auto"  # snr_plus_one; of students that predict x min_snr: min(SNR + 1, min_snr_gamma)
    min_snr_gamma: Gamma = 5.0
    balance: Annotated[float, Field(ge=0, le=4)] = 2.0  # as in stage one

    @field_validator("rung")
    @classmethod
    def _zero_is_none(cls, rung: int | None) -> int | None:
        return rung or None

    @model_validator(mode="after")
    def _times_are_on_the_path(self) -> "PathsSettings":
        if self.rung is not None and self.solver_steps % self.rung:
            raise ValueError(
                f"solver_steps = {self.solver_steps} do not visit the times of rung = {self.rung}; give a multiple of it"
            )
        return self


class EncoderSettings(Section):
    ladder: Annotated[Steps, DIVIDES] = ()  # empty: no encoder
    updates: Updates = 5_000  # a rung
    learning_rate: LearningRate = 5e-4
