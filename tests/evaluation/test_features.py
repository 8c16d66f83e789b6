"""Features: the classifier of one's own data and its cache, networks from files, and what is said of files that do not fit."""

import json
import sys
import warnings

import pytest
import torch
from torch import nn

from fewstep.data.datasets import Data
from fewstep.data.loading import open_data
from fewstep.errors import InputError
from fewstep.evaluation import classifier as classifiers
from fewstep.evaluation.classifier import cache_folder, train_or_load_classifier
from fewstep.evaluation.feature_files import open_features
from fewstep.evaluation.metrics import frechet_distance
from fewstep.evaluation.statistics import Statistics
from fewstep.hashed import read_tensors


class TinyInception(nn.Module):
    """In the format of inception-2015-12-05.pt: takes bytes, resizes inside, ends in `output`."""

    def __init__(self, features: int = 2048):
        super().__init__()
        self.mix = nn.Linear(3, features)
        self.output = nn.Linear(features, 11)

    def forward(self, img: torch.Tensor, return_features: bool = False) -> torch.Tensor:
        x = self.mix(img.float().mean((2, 3)))
        if return_features:
            return x
        return self.output(x).softmax(1)


class Means(nn.Module):
    """Colour images to the three means of their channels, with a head."""

    def __init__(self):
        super().__init__()
        self.output = nn.Linear(3, 2)

    def forward(self, x):
        return nn.functional.conv2d(x, torch.eye(3)[:, :, None, None]).mean((2, 3))


def script(module, path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.script(module.eval()).save(path)
    return path


def blobs(count=400, channels=1, size=16, flip=False):
    """Two classes that are easy to tell: a bright spot in the upper or in the lower half."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(count) % 2
    pixels = torch.randint(0, 60, (count, channels, size, size), generator=generator, dtype=torch.uint8)
    for k in range(count):
        top = size // 8 + int(labels[k]) * size // 2
        pixels[k, :, top : top + size // 4, size // 4 : size // 2] = 230
    return Data(pixels, labels, ("up", "down"), flip=flip)


@pytest.mark.parametrize(("channels", "size", "flip"), [(1, 16, False), (3, 28, True), (1, 5, False)])
def test_a_classifier_learns_and_is_found_again(tmp_path, channels, size, flip, monkeypatch):
    monkeypatch.setattr(classifiers, "EPOCHS", 8)
    data = blobs(240, channels, size, flip)
    first = train_or_load_classifier(data, tmp_path / "new", quiet=True)
    assert first.held_out_accuracy > 0.9
    monkeypatch.setattr(classifiers, "train", None)  # nothing is trained again
    again = open_features("classifier", data, tmp_path / "new")
    images = torch.rand(3, channels, size, size) * 2 - 1
    assert torch.equal(again(images), first(images))
    assert again(images).shape == (3, again.dimension)
    assert again(images).dtype == torch.float64
    assert (again.fingerprint, again.held_out_accuracy) == (first.fingerprint, first.held_out_accuracy)
    assert again.logits(again(images)).shape == (3, 2)
    about = json.loads(read_tensors(next((tmp_path / "new").glob("*.safetensors")), "")[1]["about"])
    assert (about["size"], about["seed"]) == (size, 0)


def test_other_data_or_a_broken_cache_give_a_classifier_of_their_own(tmp_path, monkeypatch):
    monkeypatch.setattr(classifiers, "EPOCHS", 1)
    data = blobs(80)
    first = train_or_load_classifier(data, tmp_path, quiet=True)
    other = train_or_load_classifier(Data(data.pixels.flip(0), data.labels, data.classes), tmp_path, quiet=True)
    assert other.fingerprint != first.fingerprint
    assert len(list(tmp_path.glob("*.safetensors"))) == 2
    for path in tmp_path.glob("*.safetensors"):
        path.write_bytes(path.read_bytes()[:100])
    assert train_or_load_classifier(data, tmp_path, quiet=True).fingerprint == first.fingerprint


@pytest.mark.parametrize("size", [9, 28, 32, 96, 256])
def test_a_classifier_of_any_size_has_64_features(size):
    body = classifiers.network(3, size).eval()
    assert body(torch.zeros(2, 3, size, size)).shape == (2, 64)
    assert sum(p.numel() for p in body.parameters()) < 500_000


def test_a_classifier_of_digits_is_the_same_each_time_knows_digits_and_tells_noise_from_them(tmp_path, monkeypatch):
    monkeypatch.setattr(classifiers, "EPOCHS", 4)
    digits = open_data(name="digits")
    images = digits.images().float() / 127.5 - 1
    first, again = (train_or_load_classifier(digits, tmp_path / name, quiet=True) for name in ("one", "two"))
    assert first.fingerprint == again.fingerprint
    assert first.held_out_accuracy == again.held_out_accuracy > 0.9
    assert torch.equal(first(images), again(images))  # in equal batches: the rounding of others differs
    torch.testing.assert_close(first(images[:100]), first(images)[:100], rtol=1e-4, atol=1e-5)
    assert first.class_accuracy(first(images), digits.labels) > 0.9
    whole, noise, *halves = (Statistics.of(first(x)) for x in (images, torch.randn(images.shape), images[::2], images[1::2]))
    assert frechet_distance(noise, whole) > 10 * frechet_distance(*halves)


def test_a_classifier_refuses_what_it_cannot_use(tmp_path, monkeypatch):
    monkeypatch.setattr(classifiers, "EPOCHS", 1)
    features = train_or_load_classifier(blobs(80), tmp_path, quiet=True)
    with pytest.raises(InputError, match=r"1x8x8.*1x16x16"):
        features(torch.zeros(2, 1, 8, 8))
    with pytest.raises(InputError, match="1 of 2 images have values that are not finite"):
        features(torch.stack([torch.zeros(1, 16, 16), torch.full((1, 16, 16), torch.nan)]))
    with pytest.raises(InputError, match="9 images are too few"):
        train_or_load_classifier(blobs(9), tmp_path)
    with pytest.raises(InputError, match="streamed"):
        train_or_load_classifier(object(), tmp_path)


def test_the_cache_is_beside_the_data_where_that_can_be_written(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "train.npz").write_bytes(b"")

    def place(path):
        return cache_folder(Data(torch.zeros(1), torch.zeros(1), (), description={"path": path}))

    assert place(str(tmp_path)) == place(str(tmp_path / "train.npz")) == tmp_path / ".fewstep"
    assert place("digits") == place("someone/on-the-hub") == tmp_path / "cache" / "fewstep"
    assert cache_folder(blobs(2)) == tmp_path / "cache" / "fewstep"


def test_an_inception_file_is_called_in_its_own_way(tmp_path):
    module = TinyInception()
    features = open_features(f"inception={script(module, tmp_path / 'inception.pt')}", None)
    assert (features.name, features.dimension, features.size, features.held_out_accuracy) == ("inception", 2048, None, None)
    images = torch.tensor([-7.0, 0.0, 1.0]).view(3, 1, 1, 1).expand(3, 1, 4, 4)  # grey, and out of range
    with torch.no_grad():
        expected = module.mix(torch.tensor([[0.0], [128.0], [255.0]]).expand(3, 3)).double()
    torch.testing.assert_close(features(images), expected)
    torch.testing.assert_close(features.logits(expected), expected @ module.output.weight.detach().double().T)
    assert features(images[:0]).shape == (0, 2048)


def test_any_torchscript_module_takes_grey_images_as_colour(tmp_path):
    features = open_features(str(script(Means(), tmp_path / "means.pt")), blobs(2))
    images = torch.rand(70, 1, 16, 16)
    torch.testing.assert_close(features(images), images.double().mean((2, 3)).expand(-1, 3), rtol=1e-5, atol=1e-6)
    assert features.logits(features(images)).shape == (70, 2)
    other = open_features(str(script(Means(), tmp_path / "other.pt")), blobs(2, 3))
    assert (other.name, other.dimension) == ("other.pt", 3)
    assert other.fingerprint != features.fingerprint  # other random weights of the head


def infinite():
    module = nn.Sequential(nn.Flatten(), nn.Linear(3 * 4 * 4, 2))
    nn.init.constant_(module[1].bias, float("inf"))
    return module


@pytest.mark.parametrize(
    ("module", "choice", "match"),
    [
        (None, "clasifier", "no features file 'clasifier'; did you mean 'classifier'"),
        (None, "inception=none.pt", r"no Inception file .*get the TorchScript file inception-2015-12-05\.pt"),
        (Means, "inception=a.pt", "not of the FID Inception format"),
        (lambda: TinyInception(20), "inception=a.pt", "gives 20 features; the FID Inception network gives 2048"),
        (lambda: nn.Sequential(nn.Flatten(), nn.Linear(5, 2)), "a.pt", r"a.pt does not take images of shape \(n, 3, 4, 4\)"),
        (nn.ReLU, "a.pt", r"gives shape \(2, 3, 4, 4\) for 2 images; features of shape \(2, d\)"),
        (infinite, "a.pt", "not finite for 2 of 2"),
        (None, "weights.pth", "is not a TorchScript file"),
    ],
)
def test_files_and_outputs_that_do_not_fit_are_refused(tmp_path, monkeypatch, module, choice, match):
    monkeypatch.chdir(tmp_path)
    torch.save({"a": torch.zeros(2)}, "weights.pth")
    if module:
        script(module(), "a.pt")
    with pytest.raises(InputError, match=match):
        open_features(choice, blobs(2, 3, 4))


def onnx_means(path, shape, axes=(2, 3)):
    """An ONNX file that takes images of this shape to their means over the axes."""
    onnx = pytest.importorskip("onnx")
    make = onnx.helper
    node = make.make_node("ReduceMean", ["x"], ["y"], axes=list(axes), keepdims=0)
    sizes = (("x", shape), ("y", [None] * (len(shape) - len(axes))))
    ends = [make.make_tensor_value_info(n, onnx.TensorProto.FLOAT, s) for n, s in sizes]
    model = make.make_model(make.make_graph([node], "g", ends[:1], ends[1:]), opset_imports=[make.make_opsetid("", 13)])
    model.ir_version = 8
    onnx.save(model, path)
    return str(path)


def test_an_onnx_file_gets_the_channels_and_size_that_it_names(tmp_path):
    pytest.importorskip("onnxruntime")
    features = open_features(onnx_means(tmp_path / "a.onnx", ["n", 3, 24, 24]), None)
    assert (features.dimension, features.size, features.name) == (3, 24, "a.onnx")
    images = torch.rand(40, 1, 1, 1).expand(40, 1, 16, 16)
    torch.testing.assert_close(features(images), images[:, :, 0, 0].double().expand(-1, 3), rtol=1e-5, atol=1e-6)
    assert features.logits(features(images)) is None
    one = open_features(onnx_means(tmp_path / "one.onnx", [1, 1, "h", "w"]), None)
    assert one(torch.rand(5, 3, 8, 8)).shape == (5, 1)


def test_onnx_files_that_do_not_fit_are_refused(tmp_path, monkeypatch):
    pytest.importorskip("onnxruntime")
    (tmp_path / "bad.onnx").write_bytes(b"no")
    for path, message in [
        (tmp_path / "bad.onnx", "is not an ONNX file that takes float images"),
        (onnx_means(tmp_path / "flat.onnx", ["n", 8], axes=[1]), "is not an ONNX file that takes float images"),
        (onnx_means(tmp_path / "four.onnx", [4, 3, 8, 8]), "takes 4 images at a time"),
        (onnx_means(tmp_path / "deep.onnx", ["n", 3, 8, 8], axes=[3]), r"gives shape \(2, 3, 8\)"),
    ]:
        with pytest.raises(InputError, match=message):
            open_features(str(path), None)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(InputError, match="pip install onnxruntime"):
        open_features(str(tmp_path / "bad.onnx"), None)


def test_pixels_are_made_real_in_batches_whatever_their_number(tmp_path, monkeypatch):
    taken, pictures = [], classifiers.pictures
    monkeypatch.setattr(classifiers, "EPOCHS", 2)
    monkeypatch.setattr(classifiers, "pictures", lambda data, rows: taken.append(len(rows)) or pictures(data, rows))
    train_or_load_classifier(blobs(300), tmp_path, quiet=True)
    assert max(taken) <= 64 and sum(taken) == 2 * 240 + 60


def test_dinov2_gives_the_class_token(tmp_path):
    from transformers import AutoModel, Dinov2Config, Dinov2Model

    torch.manual_seed(0)
    sizes = {"hidden_size": 12, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 28, "patch_size": 14}
    Dinov2Model(Dinov2Config(**sizes)).save_pretrained(tmp_path / "dino")
    features = open_features(f"dinov2={tmp_path / 'dino'}", None)
    images = torch.rand(3, 1, 224, 224, generator=torch.Generator().manual_seed(1)) * 2 - 1
    normal = ((images + 1) / 2 - torch.tensor([0.485, 0.456, 0.406])[:, None, None]) / torch.tensor([0.229, 0.224, 0.225])[
        :, None, None
    ]
    with torch.no_grad():
        expected = AutoModel.from_pretrained(tmp_path / "dino").eval()(pixel_values=normal).pooler_output
    torch.testing.assert_close(features(images), expected.double(), atol=1e-5, rtol=0)
    assert features(images[:, :, :32, :32]).shape == (3, 12)
    with pytest.raises(InputError, match="no DINOv2 model"):
        open_features(f"dinov2={tmp_path}", None)
