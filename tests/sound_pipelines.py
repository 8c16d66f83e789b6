"""A tiny Stable Audio with random weights, as diffusers writes it, with the published scheduler."""

import json

import diffusers
import torch
from diffusers.pipelines.stable_audio import StableAudioProjectionModel

from fewstep.models.families.pipeline_folder import quiet
from transformer_pipelines import awake, t5_encoder, t5_tokenizer

SCHEDULER = {
    "_class_name": "CosineDPMSolverMultistepScheduler", "euler_at_final": False, "final_sigmas_type": "zero", "lower_order_final": True,
    "num_train_timesteps": 1000, "prediction_type": "v_prediction", "rho": 7.0, "sigma_data": 1.0, "sigma_max": 500, "sigma_min": 0.3,
    "sigma_schedule": "exponential", "solver_order": 2, "solver_type": "midpoint",
}  # fmt: skip
LENGTH, SAMPLES, RATE = 6, 4, 8  # latents, samples of sound that each stands for, samples a second


def stable_audio_pipeline(folder, **network_settings):
    """Six latents of four samples each, eight of these a second: three seconds of stereo."""
    torch.manual_seed(0)
    network = diffusers.StableAudioDiTModel(
        **{
            "sample_size": LENGTH, "in_channels": 4, "num_layers": 2, "attention_head_dim": 8, "num_attention_heads": 2, "out_channels": 4,
            "num_key_value_attention_heads": 1, "cross_attention_dim": 8, "time_proj_dim": 8, "global_states_input_dim": 24,
            "cross_attention_input_dim": 12,
        } | network_settings
    )  # fmt: skip
    tokenizer = t5_tokenizer()
    tokenizer.model_max_length = 128
    with quiet():
        vae = diffusers.AutoencoderOobleck(
            encoder_hidden_size=4, downsampling_ratios=[2, 2], channel_multiples=[1, 2], decoder_channels=4, decoder_input_channels=4,
            audio_channels=2, sampling_rate=RATE,
        )  # fmt: skip
        projection = StableAudioProjectionModel(text_encoder_dim=12, conditioning_dim=12, min_value=0, max_value=32)
        parts = {"vae": vae, "text_encoder": t5_encoder(), "projection_model": awake(projection), "tokenizer": tokenizer}
        diffusers.StableAudioPipeline(**parts, transformer=awake(network), scheduler=diffusers.DDIMScheduler()).save_pretrained(
            folder
        )
    index = folder / "model_index.json"  # the published scheduler, which needs a package that is no dependency here
    index.write_text(json.dumps(json.loads(index.read_text()) | {"scheduler": ["diffusers", SCHEDULER["_class_name"]]}))
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(SCHEDULER))
    return folder
