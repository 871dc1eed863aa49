"""PyTorch arm of `benchmarks.throughput.images`: a plain training loop, all in memory.

It imports torch and NumPy alone, so that it runs in an environment without JAX. The
benchmark starts it with its settings as JSON. For each line on standard input, a number
of epochs, it trains them and answers with a line of JSON.
"""

import json
import sys
import time
from typing import Any

import numpy as np

# Not a dependency of this project: it is in an environment of its own.
import torch  # pyright: ignore[reportMissingImports]
from torch import nn  # pyright: ignore[reportMissingImports]

PADDING = 4


def convolution(inputs: int, outputs: int, stride: int = 1) -> list[nn.Module]:
    """A 3x3 convolution, batch norm and ReLU."""
    conv = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
    nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
    return [conv, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)]


def make_model(name: str) -> nn.Module:
    """The project's network `cnn` or `vgg19`."""
    layers, inputs = [], 3
    if name == "cnn":
        for outputs, stride in ((24, 2), (32, 2), (64, 2), (64, 1)):
            layers += convolution(inputs, outputs, stride)
            inputs = outputs
    else:
        for stage, count in enumerate((2, 2, 4, 4, 4)):
            outputs = 64 * min(2**stage, 8)
            for _ in range(count):
                layers += convolution(inputs, outputs)
                inputs = outputs
            layers += [nn.MaxPool2d(2)]
    layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inputs, 10)]
    return nn.Sequential(*layers)


def augment(images: torch.Tensor) -> torch.Tensor:
    """Crops bytes [b, 3, n, n] at random with a black border, and mirrors half."""
    count, channels, side, _ = images.shape
    border = nn.functional.pad(images, [PADDING] * 4)
    device = images.device
    shifts = torch.randint(2 * PADDING + 1, (2, count, 1), device=device)
    inside = torch.arange(side, device=device)
    mirrored = torch.rand(count, 1, device=device) < 0.5
    rows = shifts[0] + inside
    columns = shifts[1] + torch.where(mirrored, side - 1 - inside, inside)
    return border[
        torch.arange(count, device=device)[:, None, None, None],
        torch.arange(channels, device=device)[:, None, None],
        rows[:, None, :, None],
        columns[:, None, None, :],
    ]


def begin(settings: dict[str, Any]) -> str:
    """Applies the settings that both PyTorch arms share, and returns the device."""
    torch.manual_seed(0)
    torch.set_num_threads(settings["threads"])
    torch.set_float32_matmul_precision("high")  # TF32 on a GPU, as JAX.
    torch.backends.cudnn.benchmark = True
    return settings["device"] or ("cuda" if torch.cuda.is_available() else "cpu")


def main() -> None:
    settings = json.loads(sys.argv[1])
    device = begin(settings)
    platform = "gpu" if device.startswith("cuda") else "cpu"
    kind = "cuda" if platform == "gpu" else "cpu"
    file = np.load(settings["data"])
    images = torch.from_numpy(file["images"]).permute(0, 3, 1, 2).to(device)
    labels = torch.from_numpy(file["labels"]).long().to(device)
    mean = images.float().mean((0, 2, 3), keepdim=True) / 255
    model = make_model(settings["model"]).to(device)
    model = model.to(memory_format=torch.channels_last)
    optimizer = torch.optim.Adam(model.parameters(), settings["rate"], fused=True)
    half = settings["dtype"] == "bfloat16"

    def train_epoch() -> dict[str, float]:
        began = time.perf_counter()
        order = torch.randperm(len(images), device=device)
        size = settings["batch_size"]
        batches = order[: len(order) // size * size].split(size)
        total = torch.zeros([], device=device)
        for rows in batches:
            pixels = augment(images[rows]).float() / 255 - mean
            pixels = pixels.contiguous(memory_format=torch.channels_last)
            with torch.autocast(kind, torch.bfloat16, enabled=half):
                logits = model(pixels)
            loss = nn.functional.cross_entropy(logits.float(), labels[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += loss.detach()
        loss = total.item() / len(batches)  # This waits for the device.
        seconds = time.perf_counter() - began
        samples = size * len(batches)
        return {"seconds": seconds, "samples": samples, "loss": loss}

    first = train_epoch()
    versions = {"torch": torch.__version__}
    print(
        json.dumps(first | {"device": {"platform": platform}, "versions": versions}),
        flush=True,
    )
    for line in sys.stdin:
        done = [train_epoch() for _ in range(int(line))]
        sums = {k: sum(one[k] for one in done) for k in ("seconds", "samples")}
        print(json.dumps(sums | {"loss": done[-1]["loss"]}), flush=True)


if __name__ == "__main__":
    main()
