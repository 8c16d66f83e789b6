"""The process of a teacher is that of the stock scheduler in its folder, number for number, or the folder is refused."""

import diffusers
import pytest
import torch

import pipelines
from fewstep.errors import InputError
from fewstep.method.parameterization import FLOW, V
from fewstep.method.process import Cosine, DiscreteBetas, RectifiedFlow
from fewstep.models.families.schedulers import process_of_scheduler, scheduler_of

CLASSES = sorted(name for name in dir(diffusers) if name.endswith("Scheduler") and not name.startswith("Flax"))
READ = {  # of diffusers 0.42; all others are refused
    "CogVideoXDDIMScheduler", "CogVideoXDPMScheduler", "DDIMInverseScheduler", "DDIMParallelScheduler", "DDIMScheduler",
    "DDPMParallelScheduler", "DDPMScheduler", "DEISMultistepScheduler", "DPMSolverMultistepInverseScheduler", "DPMSolverMultistepScheduler",
    "DPMSolverSinglestepScheduler", "EulerAncestralDiscreteScheduler", "EulerDiscreteScheduler", "FlowMatchEulerDiscreteScheduler",
    "FlowMatchHeunDiscreteScheduler", "FlowMatchLCMScheduler", "HeunDiscreteScheduler", "KDPM2AncestralDiscreteScheduler",
    "KDPM2DiscreteScheduler", "LCMScheduler", "LMSDiscreteScheduler", "PNDMScheduler", "RePaintScheduler", "SASolverScheduler",
    "TCDScheduler", "UnCLIPScheduler", "UniPCMultistepScheduler",
}  # fmt: skip

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of how diffusers uses numpy

SHIFT = {"shift": 3.0}
FLOW_SIGMAS = {"prediction_type": "flow_prediction", "use_flow_sigmas": True, "flow_shift": 3.0}
ZERO_SNR = {"rescale_betas_zero_snr": True, "prediction_type": "v_prediction"}


def compare(config, tokens=None):
    """Read a config and compare it with the stock scheduler of its class: alphas^2 at every timestep, or a flow's sigmas."""
    process, prediction = process_of_scheduler(config, tokens)
    stock = getattr(diffusers, config["_class_name"]).from_config(config)
    n = process.train_timesteps
    t = torch.arange(1, n + 1).double() / n
    alpha, sigma = process.at(t, t)
    if isinstance(process, DiscreteBetas):
        assert n == len(stock.alphas_cumprod)
        torch.testing.assert_close(alpha**2, stock.alphas_cumprod.double(), rtol=2e-5, atol=1e-7)
        torch.testing.assert_close(process.network_time(t), torch.arange(n).float(), atol=1e-3, rtol=0)
    else:
        if stock.config.get("use_flow_sigmas"):
            stock.set_timesteps(n)
        torch.testing.assert_close(sigma.flip(0), stock.sigmas[:n].double(), rtol=0, atol=5e-3)
        torch.testing.assert_close(process.network_time(t).flip(0), stock.timesteps.float(), rtol=0, atol=5)
    return process, prediction


@pytest.mark.parametrize("name", CLASSES)
def test_a_scheduler_class_with_its_own_defaults_is_read_as_it_is_or_refused(name):
    if name in READ:
        compare({"_class_name": name})
        return
    with pytest.raises(InputError) as error:
        process_of_scheduler({"_class_name": name})
    assert name in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("HeunDiscreteScheduler", {"beta_schedule": "exp"}), ("DDPMScheduler", {"beta_schedule": "sigmoid"}),
        ("DDPMScheduler", {"beta_schedule": "laplace"}), ("EulerDiscreteScheduler", {"beta_schedule": "scaled_linear"}),
        ("DDIMScheduler", {"beta_schedule": "squaredcos_cap_v2"}), ("DPMSolverMultistepScheduler", ZERO_SNR), ("EulerDiscreteScheduler", ZERO_SNR), ("DDIMScheduler", ZERO_SNR),
        ("CogVideoXDDIMScheduler", ZERO_SNR), ("CogVideoXDPMScheduler", {"snr_shift_scale": 1.0}),
        ("PNDMScheduler", {"trained_betas": [0.1, 0.2, 0.4], "num_train_timesteps": 3}), ("LMSDiscreteScheduler", {"num_train_timesteps": 500}),
        ("FlowMatchEulerDiscreteScheduler", SHIFT), ("FlowMatchHeunDiscreteScheduler", SHIFT), ("UniPCMultistepScheduler", FLOW_SIGMAS),
        ("DPMSolverMultistepScheduler", FLOW_SIGMAS), ("DPMSolverSinglestepScheduler", FLOW_SIGMAS), ("DEISMultistepScheduler", FLOW_SIGMAS),
        ("SASolverScheduler", FLOW_SIGMAS),
    ],
)  # fmt: skip
def test_a_scheduler_with_settings_is_read_as_it_is(name, settings):
    compare({"_class_name": name} | settings)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"_class_name": "EulerDiscreteScheduler", "timestep_type": "continuous", "prediction_type": "v_prediction"}, "continuous times"),
        ({"_class_name": "EDMEulerScheduler", "sigma_data": 1.0, "prediction_type": "v_prediction"}, "continuous times"),
        ({"_class_name": "DDIMScheduler", "beta_schedule": "sigmoid"}, "sigmoid"),
        ({"_class_name": "MyScheduler", "beta_schedule": "linear"}, "MyScheduler"),
        ({"beta_schedule": "linear"}, "_class_name"),
        ({"_class_name": "UniPCMultistepScheduler", "use_flow_sigmas": True}, "flow_prediction, not with epsilon"),
        ({"_class_name": "UniPCMultistepScheduler", "prediction_type": "flow_prediction"}, "use_flow_sigmas"),
        ({"_class_name": "FlowMatchEulerDiscreteScheduler", "invert_sigmas": True}, "invert_sigmas"),
        ({"_class_name": "UniPCMultistepScheduler", **FLOW_SIGMAS, "use_karras_sigmas": True}, "other sigmas"),
        ({"_class_name": "DDIMScheduler", "rescale_betas_zero_snr": True}, "terminal SNR of zero"),
        ({"_class_name": "FlowMatchEulerDiscreteScheduler", "use_dynamic_shifting": True}, "needs the size"),
    ],
)  # fmt: skip
def test_what_would_be_read_wrong_is_refused_in_one_line(config, message):
    with pytest.raises(InputError, match=message) as error:
        process_of_scheduler(config)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("kind", "shift"), [("exponential", 3.1581929), ("linear", 1.15)])  # e^1.15
def test_a_dynamic_shift_is_that_of_the_tokens_of_an_image(kind, shift):
    config = {"_class_name": "FlowMatchEulerDiscreteScheduler", "use_dynamic_shifting": True, "time_shift_type": kind}
    process, prediction = process_of_scheduler(config, 4096)
    assert isinstance(process, RectifiedFlow) and process.shift == pytest.approx(shift) and prediction is FLOW
    stock = diffusers.FlowMatchEulerDiscreteScheduler.from_config(config)
    t = torch.arange(1000, 0, -1).double() / 1000
    torch.testing.assert_close(process.at(t, t)[1], stock.time_shift(1.15, 1.0, stock.sigmas.double()), rtol=0, atol=1e-6)


def test_where_a_class_needs_a_package_its_betas_must_be_written_out(monkeypatch):
    class Absent:
        @classmethod
        def from_config(cls, config):
            raise ImportError("needs torchsde\nand more")

    monkeypatch.setattr(diffusers, "DPMSolverSDEScheduler", Absent, raising=False)
    whole = dict(pipelines.scheduler("DDIMScheduler").config)
    ours, theirs = (process_of_scheduler(whole | {"_class_name": n})[0] for n in ("DPMSolverSDEScheduler", "DDIMScheduler"))
    assert ours == theirs
    with pytest.raises(InputError, match="torchsde; install"):
        process_of_scheduler({"_class_name": "DPMSolverSDEScheduler"})


@pytest.mark.parametrize("process", [Cosine(), DiscreteBetas(tuple(torch.linspace(1e-4, 0.02, 1000).tolist())), RectifiedFlow(3.0)])
def test_a_scheduler_of_ours_is_read_back_as_the_same_process(process):
    expected = FLOW if isinstance(process, RectifiedFlow) else V
    made = scheduler_of(process, expected)
    again, prediction = process_of_scheduler({**made.config, "_class_name": type(made).__name__})
    assert prediction == expected
    t = torch.arange(1, 11).double() / 10
    for ours, theirs in zip(process.at(t, t), again.at(t, t), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)
