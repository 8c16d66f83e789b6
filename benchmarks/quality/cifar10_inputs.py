"""What the benchmark on CIFAR-10 reads: the images as one .npz, and the public ResNet-56 as a features file of TorchScript.

    python -m benchmarks.quality.cifar10_inputs --data FOLDER --weights resnet56-4bfd9763.th --out inputs

FOLDER holds train_0.npz to train_4.npz of `images` or of lossless mosaics (`data`, `offsets`, `tile`). The weights are those of
akamaster/pytorch_resnet_cifar10 (92.6 % right on the first 1,000 test images by this script, where FOLDER has test_first1000.npz).
Writes inputs/cifar10.npz and inputs/resnet56.pt: 64 features of images (n, 3, 32, 32) in [-1, 1], with the classifier's last layer as
`output`, so that `fewstep evaluate --features inputs/resnet56.pt` has class accuracy and an Inception-like score too. A Fréchet distance
in these features is not FID.
"""

import io
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from benchmarks.command import parser_of, run_main
from fewstep.evaluation.feature_files import without_warnings

MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Block(nn.Module):
    """Two convolutions beside a shortcut without weights: every second pixel, missing channels zero (1512.03385, option A)."""

    def __init__(self, before: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(before, channels, 3, stride, 1, bias=False), nn.BatchNorm2d(channels)
        self.conv2, self.bn2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False), nn.BatchNorm2d(channels)
        self.stride, self.missing = stride, (channels - before) // 2

    def forward(self, x: Tensor) -> Tensor:
        shortcut = nn.functional.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.missing, self.missing))
        return (self.bn2(self.conv2(self.bn1(self.conv1(x)).relu())) + shortcut).relu()


class ResNet(nn.Module):
    """Features (n, 64) of images (n, 3, 32, 32) in [-1, 1]; `output` makes the 10 classes' logits of them."""

    def __init__(self, blocks: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16)
        sizes = [(16, 16, 1), (16, 32, 2), (32, 64, 2)]
        self.layer1, self.layer2, self.layer3 = (
            nn.Sequential(Block(before, c, s), *(Block(c, c, 1) for _ in range(blocks - 1))) for before, c, s in sizes
        )
        self.output = nn.Linear(64, 10)
        self.register_buffer("mean", torch.tensor(MEAN).reshape(1, 3, 1, 1))
        self.register_buffer("deviation", torch.tensor(DEVIATION).reshape(1, 3, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        x = ((images + 1) / 2 - self.mean) / self.deviation
        return self.layer3(self.layer2(self.layer1(self.bn1(self.conv1(x)).relu()))).mean((2, 3))


def resnet_of(weights: Path) -> ResNet:
    """The network of a published file {"state_dict": {"module....": ...}}, in evaluation mode."""
    known = torch.load(weights, map_location="cpu", weights_only=True)["state_dict"]
    state = {key.removeprefix("module.").replace("linear.", "output."): value for key, value in known.items()}
    network = ResNet(sum(key.startswith("layer1.") and key.endswith("conv1.weight") for key in state))
    missing, unexpected = network.load_state_dict(state, strict=False)
    if unexpected or set(missing) != {"mean", "deviation"}:
        raise SystemExit(f"{weights} is another network: {[*missing, *unexpected][:3]}")
    return network.eval()


def images_of(path: Path) -> dict[str, Any]:
    """`images` uint8 (n, h, w, c) and `labels` of a file, its mosaics cut into tiles."""
    with np.load(path, allow_pickle=False) as file:
        known = {key: file[key] for key in file.files}
    if "data" not in known:
        return known
    h, w, c = (int(n) for n in known["tile"])
    images = []
    for start, end in zip(known["offsets"][:-1], known["offsets"][1:], strict=True):
        whole = np.asarray(Image.open(io.BytesIO(known["data"][start:end].tobytes())).convert("RGB"))
        rows, columns = whole.shape[0] // h, whole.shape[1] // w
        images.append(whole.reshape(rows, h, columns, w, c).swapaxes(1, 2).reshape(-1, h, w, c))
    return {"images": np.concatenate(images), "labels": known["labels"]}


@torch.no_grad()
def accuracy(network: ResNet, images: np.ndarray, labels: np.ndarray) -> float:
    """Share of images that the classifier finds right."""
    x = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 127.5 - 1
    found = torch.cat([network.output(network(part)).argmax(1) for part in x.split(250)])
    return float((found == torch.from_numpy(labels.astype(np.int64))).double().mean())


def main(words: list[str] | None = None) -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args(words)
    args.out.mkdir(parents=True, exist_ok=True)
    network = resnet_of(args.weights)
    script = without_warnings(torch.jit.script, network)
    without_warnings(torch.jit.save, script, str(args.out / "resnet56.pt"))
    parts = [images_of(path) for path in sorted(args.data.glob("train_[0-9].npz"))]
    np.savez(args.out / "cifar10.npz", **{key: np.concatenate([part[key] for part in parts]) for key in ("images", "labels")})
    print(f"{sum(len(part['labels']) for part in parts):,} images and the network are in {args.out}")
    held_out = args.data / "test_first1000.npz"
    if held_out.is_file():
        test = images_of(held_out)
        print(f"held out: {accuracy(network, test['images'], test['labels']):.1%} right")


if __name__ == "__main__":
    run_main(main)
