"""PyTorch arm of `benchmarks.throughput.ncf`: a plain training loop, all in memory.

It imports torch and NumPy alone, so that it runs in an environment without JAX. The
benchmark starts it with its settings as JSON. For each line on standard input, a number
of epochs, it trains them and answers with a line of JSON.
"""

import json
import sys
import time

import numpy as np

# Not a dependency of this project: it is in an environment of its own.
import torch  # pyright: ignore[reportMissingImports]
from torch import nn  # pyright: ignore[reportMissingImports]

NEGATIVES = 4


class NCF(nn.Module):
    """Embeddings of 128, then dense layers 256 -> 128 -> 64 -> 1."""

    def __init__(self, num_users: int, num_items: int):
        super().__init__()
        self.user_embedding = nn.Embedding(num_users, 128)
        self.item_embedding = nn.Embedding(num_items, 128)
        self.tower = nn.Sequential(
            nn.Linear(256, 128), nn.ReLU(), nn.Linear(128, 64), nn.ReLU(),
            nn.Linear(64, 1),
        )  # fmt: skip
        for table in (self.user_embedding, self.item_embedding):
            nn.init.normal_(table.weight, std=0.01)
        for layer in self.tower[::2]:
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, users: torch.Tensor, items: torch.Tensor) -> torch.Tensor:
        pair = [self.user_embedding(users), self.item_embedding(items)]
        return self.tower(torch.cat(pair, dim=1)).squeeze(1)


class Epochs:
    """The positives on the device, and epochs with fresh negatives in random order."""

    def __init__(self, train: np.ndarray, num_users: int, num_items: int, device: str):
        self.num_items = num_items
        self.users, self.items = torch.from_numpy(train).to(device).long().T
        self.seen = torch.zeros(num_users * num_items, dtype=torch.bool, device=device)
        self.seen[self.users * num_items + self.items] = True
        positive = torch.ones(len(train), device=device)
        self.labels = torch.cat(
            [positive, torch.zeros(NEGATIVES * len(train)).to(positive)]
        )

    def draw(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Users, items and labels of all samples of an epoch, and their order."""
        users = self.users.repeat(NEGATIVES)
        items = torch.randint(self.num_items, users.shape, device=users.device)
        wrong = self.seen[users * self.num_items + items].nonzero().squeeze(1)
        while len(wrong):
            again = torch.randint(self.num_items, wrong.shape, device=users.device)
            items[wrong] = again
            wrong = wrong[self.seen[users[wrong] * self.num_items + again]]
        users, items = torch.cat([self.users, users]), torch.cat([self.items, items])
        return users, items, torch.randperm(len(users), device=users.device)


def train_epoch(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    epochs: Epochs,
    batch_size: int,
    micro_batch: int,
    share: float,
) -> dict[str, float]:
    """Trains a share of an epoch; returns its seconds, samples and mean loss.

    The seconds include the same share of the time that drawing and shuffling a whole
    epoch take.
    """
    began = time.perf_counter()
    users, items, order = epochs.draw()
    order[0].item()  # This waits for the device.
    drawn = time.perf_counter()
    batches = order.split(batch_size)
    batches = batches[: max(1, round(share * len(batches)))]
    total = torch.zeros([], device=users.device)
    for batch in batches:
        optimizer.zero_grad()
        for part in batch.split(micro_batch):
            logits = model(users[part], items[part])
            loss = nn.functional.binary_cross_entropy_with_logits(
                logits, epochs.labels[part], reduction="sum"
            )
            (loss / len(batch)).backward()
            total += loss.detach()
        optimizer.step()
    samples = sum(map(len, batches))
    loss = total.item() / samples
    seconds = time.perf_counter() - drawn + (drawn - began) * samples / len(order)
    return {"seconds": seconds, "samples": samples, "loss": loss}


def main() -> None:
    settings = json.loads(sys.argv[1])
    torch.manual_seed(0)
    torch.set_num_threads(settings["threads"])
    torch.set_float32_matmul_precision("high")  # TF32 on a GPU, as JAX.
    device = settings["device"] or ("cuda" if torch.cuda.is_available() else "cpu")
    data = np.load(settings["data"])
    num_users, num_items = int(data["num_users"]), int(data["num_items"])
    epochs = Epochs(data["train"], num_users, num_items, device)
    model = NCF(num_users, num_items).to(device)
    optimizer = torch.optim.Adam(model.parameters(), settings["rate"], fused=True)
    batch_size = settings["batch_size"]
    micro_batch = settings["torch_micro_batch"]

    def train(share: float) -> dict[str, float]:
        return train_epoch(model, optimizer, epochs, batch_size, micro_batch, share)

    first = train(1.0)
    platform = "gpu" if device.startswith("cuda") else "cpu"
    version = {"torch": torch.__version__}
    print(
        json.dumps(first | {"device": {"platform": platform}, "versions": version}),
        flush=True,
    )
    for line in sys.stdin:
        done = [train(settings["torch_share"]) for _ in range(int(line))]
        sums = {k: sum(one[k] for one in done) for k in ("seconds", "samples")}
        print(json.dumps(sums | {"loss": done[-1]["loss"]}), flush=True)


if __name__ == "__main__":
    main()
