"""The mathematics of 2210.03142: pure functions of tensors, with neither files nor devices. Read it in this order.

process, parameterization, conditioning, guidance, stage_one, stage_two, samplers; gaussian_mixture is the oracle of the tests.
"""
