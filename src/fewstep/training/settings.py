"""Settings: every key of a recipe with its default and its bound, in frozen models; those of models and stages are in `stage_settings`."""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from fewstep.training.stage_settings import (
    EncoderSettings,
    PathsSettings,
    Section,
    StageOneSettings,
    StageTwoSettings,
    StudentSettings,
    TeacherSettings,
    TeachSettings,
    Updates,
)

Side = Annotated[int, Field(ge=1, le=8192)]


def _sizes(given: Any) -> Any:
    listed = given if isinstance(given, list | tuple) and 1 <= len(given) <= 256 else [given]
    if given in (None, "auto") or all(
        isinstance(size, list | tuple) and len(size) == 2 and all(type(side) is int and 1 <= side <= 8192 for side in size)
        for size in listed
    ):
        return given
    raise ValueError('give "auto", or 1 to 256 sizes [width, height] of 1 to 8192 pixels, as [[1024, 1024], [1216, 832]]')


Sizes = Annotated[
    Literal["auto"] | Annotated[tuple[tuple[Side, Side], ...], Field(min_length=1, max_length=256)] | None, BeforeValidator(_sizes)
]


class DataSettings(Section):
    name: str | None = None  # built-in data: "digits"
    path: str | None = None  # an image folder, .npz, or anything that `datasets` opens
    split: str = "train"  # of a folder or data set that has several
    layout: Literal["auto", "classes", "splits", "captions", "table"] = "auto"  # of a folder whose names allow two readings
    size: Side | None = None  # images are resized and centre-cropped to this
    buckets: Sizes = None  # [width, height] of pictures, each of which goes to the nearest; "auto": of the teacher's area; None: the teacher's size alone
    bucket_step: Annotated[int, Field(ge=1, le=8192)] = 64  # of "auto": sides are multiples of it
    bucket_ratio: Annotated[float, Field(ge=1, le=16)] = 2.0  # of "auto": the longer side is at most so many times the shorter
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
    sample_every: Annotated[int, Field(ge=0)] | None = (
        None  # updates between pictures from fixed noise, in RUN/samples; None: a handful a stage, for 2 % of its evaluations; 0: none
    )
    log_with: str = "tensorboard"  # curves: in RUN/tensorboard, or "wandb" and others that accelerate knows, or "none"
    seed: Annotated[int, Field(ge=0, lt=1 << 31)] = 0  # of everything random
    compile: bool = False  # torch.compile, of the student and of what it learns from
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
    extrapolate: bool = False  # also the Fréchet distance of infinitely many samples, from parts of them


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
            raise ValueError(
                f"paths.rung = {rung} is no rung of stage_two.ladder {list(ladder)}; name one, or set it to 0, for no paths"
            )
        if rung is not None and self.stage_two.sampler == "stochastic":
            raise ValueError(
                "paths.rung needs stage_two.sampler = 'deterministic', whose paths they are; set that, or paths.rung = 0"
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
