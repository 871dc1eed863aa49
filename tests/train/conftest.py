"""What tests of training share: small data, a small network, no downloads."""

import shutil
from pathlib import Path

import pytest
import requests
from tensorflow_datasets.core import constants
from tensorflow_datasets.core.download import checksums, downloader


@pytest.fixture(autouse=True, scope="module")
def small_cnn():
    """Image classifiers have two convolutions."""
    from tests.support import small_cnn

    with small_cnn.replaced():
        yield


@pytest.fixture
def small_photographs(monkeypatch):
    """Networks see 48 pixels of a photograph's side, not 224, decoded by no worker."""
    from train.images import decoding, loader, streaming

    for module in (decoding, loader, streaming):
        monkeypatch.setattr(module, "SIDE", 48)
    monkeypatch.setattr(loader, "_processors", lambda: 0)


@pytest.fixture
def server(tmp_path, monkeypatch):
    """Folder of the files that downloads return; nothing reaches the network."""
    folder = tmp_path / "server"
    folder.mkdir()

    def answer(url, **_):
        if not any(folder.iterdir()):
            raise requests.ConnectionError
        return requests.Response()

    def download(_, url, target, verify=True):
        path = Path(shutil.copy(folder / url.rpartition("/")[2], target))
        return downloader.DownloadResult(path, checksums.compute_url_info(path))

    monkeypatch.setattr(requests.Response, "close", lambda _: None)
    monkeypatch.setattr(requests, "get", answer)
    monkeypatch.setattr(downloader._Downloader, "_sync_download", download)
    monkeypatch.setattr(constants, "DATA_DIR", str(tmp_path / "prepared"))
    return folder
