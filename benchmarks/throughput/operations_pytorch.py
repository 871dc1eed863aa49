"""PyTorch arm of `benchmarks.throughput.operations`.

It imports torch and the PyTorch arm of the images' benchmark alone. The benchmark
starts it with its settings as JSON. For each line on standard input, a number of calls,
it makes that many calls of each operation, and answers with the seconds of a call by
operation, as a line of JSON.
"""

import json
import sys
import time
from collections.abc import Callable
from typing import Any

# It stands beside this file, which is where Python looks first.
import images_pytorch  # pyright: ignore[reportMissingImports]

# Not a dependency of this project: it is in an environment of its own.
import torch  # pyright: ignore[reportMissingImports]
from torch import nn  # pyright: ignore[reportMissingImports]

CLASSES = 10


def operations(
    batch_size: int, network: list[Any], device: str
) -> dict[str, Callable[[], Any]]:
    """Each operation with its arguments, by name."""

    def random(*shape: int) -> Any:
        found = torch.randn(shape, device=device)
        return found.contiguous(memory_format=torch.channels_last)

    side, channels = network[0][:2]
    shape = (20 * batch_size, channels, side, side)
    images = torch.randint(256, shape, dtype=torch.uint8, device=device)
    # As the images' benchmark has them: rows of pixels, seen with channels first.
    images = images.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)
    rows = torch.randperm(len(images), device=device)[:batch_size]

    def take() -> Any:
        pixels = images_pytorch.augment(images[rows]).float() / 255 - 0.5
        return pixels.contiguous(memory_format=torch.channels_last)

    found: dict[str, Callable[[], Any]] = {"inputs": take}
    for number, (side, channels, outputs, stride) in enumerate(network, 1):
        x, kernel = (
            random(batch_size, channels, side, side),
            random(outputs, channels, 3, 3),
        )
        y = random(batch_size, outputs, side // stride, side // stride)
        name = f"conv{number}"

        def gradients(
            wanted: tuple[bool, bool], x=x, kernel=kernel, y=y, stride=stride
        ):
            return torch.ops.aten.convolution_backward(
                y, x, kernel, None, [stride] * 2, [1] * 2, [1] * 2,
                False, [0] * 2, 1, [*wanted, False],
            )  # fmt: skip

        found[f"{name}, forward"] = lambda x=x, kernel=kernel, stride=stride: (
            nn.functional.conv2d(x, kernel, None, stride, 1)
        )
        found[f"{name}, gradient of the kernel"] = lambda g=gradients: g((False, True))
        if number > 1:  # Nothing needs the gradient of the images.
            found[f"{name}, gradient of the input"] = lambda g=gradients: g(
                (True, False)
            )
        found[f"norm{number}, forward and backward"] = norm(
            random(*y.shape).requires_grad_(), y, outputs, device
        )
    features = random(*y.shape).requires_grad_()
    layers = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(outputs, CLASSES)]
    head = nn.Sequential(*layers).to(device)
    labels = torch.randint(CLASSES, (batch_size,), device=device)

    def loss() -> Any:
        found = nn.functional.cross_entropy(head(features), labels)
        return torch.autograd.grad(found, [features, *head.parameters()])

    found["head and loss, forward and backward"] = loss
    parameters = list(images_pytorch.make_model("cnn").to(device).parameters())
    for parameter in parameters:
        parameter.grad = torch.randn_like(parameter)
    found["Adam"] = torch.optim.Adam(parameters, 1e-3, fused=True).step
    return found


def norm(images: Any, output: Any, channels: int, device: str) -> Callable[[], Any]:
    """Batch norm by the statistics of the batch, then ReLU, and their gradients."""
    module = nn.Sequential(nn.BatchNorm2d(channels), nn.ReLU(inplace=True)).to(device)
    wanted = [images, *module.parameters()]
    return lambda: torch.autograd.grad(module(images), wanted, output)


def main() -> None:
    settings = json.loads(sys.argv[1])
    device = images_pytorch.begin(settings)
    gpu = device.startswith("cuda")
    programs = operations(settings["batch_size"], settings["layers"], device)

    def measure(calls: int) -> dict[str, float]:
        seconds = {}
        for name, program in programs.items():
            began = time.perf_counter()
            for _ in range(calls):
                program()
                if gpu:
                    torch.cuda.synchronize()
            seconds[name] = (time.perf_counter() - began) / calls
        return seconds

    measure(1)
    versions = {"torch": torch.__version__}
    platform = {"platform": "gpu" if gpu else "cpu"}
    print(json.dumps({"device": platform, "versions": versions}), flush=True)
    for line in sys.stdin:
        print(json.dumps(measure(int(line))), flush=True)


if __name__ == "__main__":
    main()
