"""`student.start`: stages that begin with the weights of an earlier run's, in place of the teacher's or of the stage before."""

from fewstep.errors import InputError
from fewstep.models.lora import has_adapters
from fewstep.models.metadata import INFO, find_folder, is_run, read_info
from fewstep.models.model import Model
from fewstep.models.negative_prompts import open_network
from fewstep.training.recipe import Recipe

SAME = ("family", "prediction", "process", "condition", "classes", "channels", "negative_prompts")  # of both students


def check_start(recipe: Recipe, student: Model) -> None:
    """Raises InputError where `student.start` names no run of students of this kind, or where adapters are trained."""
    if recipe.student.start is None:
        return
    if has_adapters(student.denoiser.network):
        raise InputError(
            "student.start is a whole student, and student.lora trains adapters of the teacher's: leave one of them out"
        )
    run = find_folder(recipe.student.start)
    if not is_run(run) or not (run / "stage-one" / INFO).is_file():
        raise InputError(f"student.start '{run}' is no run with a finished stage one; name the folder of a distillation")
    info = read_info(run / "stage-one")
    for key in SAME:
        if getattr(info, key) != getattr(student.info, key):
            raise InputError(
                f"student.start: {key} of {run / 'stage-one'} is {str(getattr(info, key))[:60]}, and of this run's student "
                f"{str(getattr(student.info, key))[:60]}; name a run of the same kind"
            )


def begin(stage: str, student: Model, start: str | None) -> None:
    """Put the weights of the same stage of the run `start` into a student that is to be trained; where it has no such stage nothing changes.

    Raises:
        InputError: the weights do not fit.
    """
    folder = None if start is None else find_folder(start) / stage
    if folder is None or not (folder / INFO).is_file():
        return
    weights, network = open_network(student.family, folder).state_dict(), student.denoiser.network
    try:
        network.load_state_dict(weights)
    except RuntimeError:
        raise InputError(
            f"student.start: the weights of {folder} are of another network than this run's; name a run of the same teacher"
        ) from None
