"""The scripts behind every published figure, by question; run from the repository's folder: `python -m benchmarks.FOLDER.NAME --help`.

    quality     how good are samples in few steps: exact mixtures, digits, Fashion-MNIST, CIFAR-10, emoji; parts of the method left out
    speed       how long does it take: an image, a call of the network, an update, the playground's page
    uses        editing, inpainting, style transfer
    families    every family of networks: samples by stock diffusers, ONNX

`structure` counts files and lines, and the files that one distillation crosses. `command` has what they share, `tables` writes the tables of docs/ from results/*.json. gpu.md has the calls for a GPU.
"""
