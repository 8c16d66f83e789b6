"""What students predict: v by default, of a flow the flow; what does not belong together is refused."""

from dataclasses import replace

import pytest

from fewstep.errors import InputError
from fewstep.method.process import RectifiedFlow
from fewstep.training.losses import student_prediction
from fewstep.training.recipe import load_recipe
from tiny import tiny_teacher


def teacher_of(prediction, flow, family="class_conditional"):
    """A teacher that is said to predict this, of a flow or of a cosine process."""
    teacher = tiny_teacher()
    denoiser = replace(teacher.denoiser, prediction="flow", process=RectifiedFlow()) if flow else teacher.denoiser
    return replace(teacher, denoiser=denoiser, info=teacher.info.model_copy(update={"prediction": prediction, "family": family}))


@pytest.mark.parametrize(
    ("asked", "teacher", "expected"),
    [
        ("auto", ("eps", False), "v"),
        ("auto", ("flow", True), "flow"),
        ("auto", ("x", True, "own"), "flow"),
        ("same", ("eps", False), "eps"),
        ("same", ("x", True, "own"), "x"),
        ("eps", ("v", False), "eps"),
        ("x", ("flow", True, "own"), "x"),
        ("v", ("flow", True), None),
        ("eps", ("flow", True), None),
        ("v", ("x", True, "own"), None),
        ("x", ("flow", True), None),  # no stock scheduler of flows takes x
    ],
)
def test_what_a_student_predicts(asked, teacher, expected):
    recipe = load_recipe() if asked == "auto" else load_recipe(None, {"student.prediction": asked})  # auto is the default
    if expected is not None:
        assert student_prediction(recipe, teacher_of(*teacher)) == expected
        return
    with pytest.raises(InputError, match=f"student.prediction is '{asked}'"):
        student_prediction(recipe, teacher_of(*teacher))
