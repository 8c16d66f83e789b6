"""Settings: every key of a recipe with its default and its bound, in frozen models."""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

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


class DataSettings(Section):
    name: str | None = None  # built-in data: "digits"
    path: str | None = None  # an image folder, .npz, or anything that `datasets` opens
    split: str = "train"  # of a folder or data set that has several
    layout: Literal["auto", "classes", "splits", "captions", "table"] = "auto"  # of a folder whose names allow two readings
    size: Annotated[int, Field(ge=1, le=8192)] | None = None  # images are resized and centre-cropped to this
    channels: Literal[1, 3] | None = None  # 1 is grey; None: the pictures' own
    image_column: str | None = None  # of a table; without it the one that holds pictures
    label_column: str | None = None  # of classes
    caption_column: str | None = None  # of text; without it a column with a usual name (text, caption, ...) is looked for
    classes: tuple[str, ...] | None = None  # names, where the data has numbers alone
    class_names: Literal["match", "by-order"] = "match"  # with the teacher's; by-order: the first is its first, whatever the names
    streaming: bool = False  # decode while training: more than fits into memory
    flip: bool = False  # mirror half of the images
    prompts: str | None = None  # a text file, one prompt a line: no images; the teacher's own guided samples stand in for them
    samples_per_prompt: Annotated[int, Field(ge=1, le=10_000)] = 1  # how often each prompt is drawn
    sampling_steps: Annotated[int, Field(ge=1, le=1 << 20)] = 32  # DDIM steps of each such sample
    negative_prompts: str | None = None  # a text file, one a line, for student.negative_prompts
    cache: str | None = None  # a folder that `fewstep cache` wrote; without it RUN/cache is written first
    on_the_fly: bool = False  # encode (or sample) in every update instead of caching
    encode_batch: Annotated[int, Field(ge=1, le=4096)] = 8  # pictures or prompts at a time, while encoding
    shard_size: Annotated[int, Field(ge=1, le=1 << 20)] = 256  # examples in each file of a cache


class ProcessSettings(Section):
    """The process of a teacher that `fewstep teach` makes; another teacher's comes with its folder."""

    name: Literal["cosine"] = "cosine"
    log_snr: tuple[Annotated[float, Field(le=20)], Annotated[float, Field(ge=-20)]] = (20.0, -20.0)  # at t = 0 and at t = 1

    @model_validator(mode="after")
    def _falls(self) -> "ProcessSettings":
        if self.log_snr[0] <= self.log_snr[1]:
            raise ValueError(f"log_snr = {list(self.log_snr)} does not fall; give that of t = 0, the larger one, first")
        return self


class NetworkSettings(Section):
    """Config keys of diffusers' UNet2DConditionModel, for a teacher that `fewstep teach` makes."""

    block_out_channels: Annotated[tuple[Annotated[int, Field(ge=4, le=8192)], ...], Field(min_length=1, max_length=8)] = (32, 64)
    layers_per_block: Annotated[int, Field(ge=1, le=16)] = 1  # residual blocks at each level
    norm_num_groups: Annotated[int, Field(ge=1, le=256)] = 16  # divides every number of channels
    attention_head_dim: Annotated[int, Field(ge=1, le=256)] = 8  # channels of a head
    mid_block_type: Literal["UNetMidBlock2D", "none"] = "none"
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0  # of the teacher alone: students are trained without
    down_block_types: tuple[Literal["DownBlock2D", "AttnDownBlock2D"], ...] | None = (
        None  # Attn: has self-attention; None: none has it
    )
    resnet_time_scale_shift: Literal["default", "scale_shift"] = "default"
    num_class_embeds: Annotated[int, Field(ge=2, le=1 << 20)] | None = None  # classes + 1; None: as the data has

    @model_validator(mode="after")
    def _one_a_level(self) -> "NetworkSettings":
        levels, kinds = len(self.block_out_channels), self.down_block_types
        if kinds is not None and len(kinds) != levels:
            raise ValueError(f"{len(kinds)} down_block_types for {levels} block_out_channels; give one for each")
        return self


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

    rung: Annotated[int, Field(ge=1, le=1 << 20)] | None = None  # the step count of the ladder that it is for; None: no paths
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


class TrainSettings(Section):
    batch_size: Annotated[int, Field(ge=1, le=1 << 20)] = 128  # a process and a micro-batch, as in accelerate
    gradient_accumulation: Annotated[int, Field(ge=1, le=4096)] = 1  # micro-batches an update
    gradient_clip: Annotated[float, Field(gt=0)] = 1.0  # largest norm of the gradients
    precision: Literal["no", "bf16", "fp16"] = "no"  # of the network's computation; weights and optimiser are float32
    ema: Annotated[float, Field(ge=0, lt=1)] = 0.999  # of the average that is saved and that teaches the next rung
    ema_device: Literal["device", "cpu"] = (
        "device"  # where the average is: "cpu" saves a GPU its weights, and each update copies them there
    )
    optimizer: Literal["adamw", "adamw8bit"] = "adamw"  # adamw8bit: moments of 8 bits (pip install 'fewstep[adamw8bit]')
    warmup: Updates = 100  # updates over which the learning rate rises, in each stage
    weight_decay: Annotated[float, Field(ge=0, le=1)] = 0.0
    checkpoint_every: Annotated[int, Field(ge=1)] = 500  # updates
    log_every: Annotated[int, Field(ge=1)] = 25  # updates
    log_with: str = "tensorboard"  # curves: in RUN/tensorboard, or "wandb" and others that accelerate knows, or "none"
    seed: Annotated[int, Field(ge=0, lt=1 << 31)] = 0  # of everything random
    compile: bool = False  # torch.compile
    gradient_checkpointing: bool = False  # a third more computation, and a small part of the memory for activations


class EvaluateSettings(Section):
    # the defaults are those of `--preset full`; a key that a recipe leaves out is decided by the preset of the evaluation
    samples: Annotated[int, Field(ge=2, le=10_000_000)] = 1000  # of each configuration
    steps: tuple[Annotated[int, Field(ge=1)], ...] = (1, 2, 4)  # students of a run
    guidance_scale: Annotated[tuple[float, ...], Field(min_length=1)] = (1.0, 2.0, 3.0, 5.0)
    baselines: tuple[str, ...] = ("ddim", "dpm++", "unipc", "heun", "euler")  # stock samplers of the teacher
    budgets: tuple[Annotated[int, Field(ge=1, le=1 << 20)], ...] = (4, 8, 16, 32)  # network evaluations for each of them
    reference_steps: Annotated[int, Field(ge=1, le=1 << 20)] = 256  # of the teacher, to which the others' distance is measured
    features: str = "classifier"  # or "clip", "dinov2", "dinov2=MODEL", "inception=FILE", a TorchScript or an .onnx file
    clip: str | None = None  # a CLIP model, folder or hub id, for the CLIP score of text and for the features "clip"
    prompts: str | None = None  # a text file, one prompt a line, for a model of text; None: the data's captions
    bootstrap: Annotated[int, Field(ge=0, le=100_000)] = 0  # repeats, for an interval of the Fréchet distance


class Recipe(Section):
    """The whole of a run's settings."""

    teacher: TeacherSettings = TeacherSettings()
    data: DataSettings = DataSettings()
    process: ProcessSettings = ProcessSettings()
    network: NetworkSettings = NetworkSettings()
    teach: TeachSettings = TeachSettings()
    student: StudentSettings = StudentSettings()
    stage_one: StageOneSettings = StageOneSettings()
    stage_two: StageTwoSettings = StageTwoSettings()
    paths: PathsSettings = PathsSettings()
    encoder: EncoderSettings = EncoderSettings()
    train: TrainSettings = TrainSettings()
    evaluate: EvaluateSettings = EvaluateSettings()

    @model_validator(mode="after")
    def _sections_go_together(self) -> "Recipe":
        rung, ladder, negatives = self.paths.rung, self.stage_two.ladder, self.data.negative_prompts
        if rung is not None and rung not in ladder[1:]:
            raise ValueError(f"paths.rung = {rung} is no rung of stage_two.ladder {list(ladder)}; name one, or leave it out")
        if rung is not None and self.stage_two.sampler == "stochastic":
            raise ValueError(
                "paths.rung needs stage_two.sampler = 'deterministic', whose paths they are; set that, or leave it out"
            )
        if self.encoder.ladder and self.stage_one.times == "grid":
            raise ValueError(
                "stage_one.times = 'grid' knows no time that encoder.ladder begins at: set 'continuous', or leave it out"
            )
        if self.student.negative_prompts and negatives is None:
            raise ValueError("student.negative_prompts needs a list: set data.negative_prompts to a text file, one prompt a line")
        if negatives is not None and not self.student.negative_prompts:
            raise ValueError("data.negative_prompts is a list for student.negative_prompts = true; set that, or leave it out")
        return self
